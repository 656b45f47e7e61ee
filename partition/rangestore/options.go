package rangestore

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
)

// On disk for ever: Pebble refuses to open a range under another name of the
// comparer or of the merge operator, and cannot go back to an older format.
// The format is the newest without value separation; it is raised only by an
// explicit upgrade step.
const (
	comparerName  = "leveldb.BytewiseComparator"
	mergerName    = "stamp.sum.v1"
	formatVersion = pebble.FormatTableFormatV6
)

const (
	blockSize       = 16 << 10
	bloomBits       = 10
	maxManifest     = 16 << 20
	targetFileSize  = 8 << 20 // of level 0; each deeper level doubles it
	ownCacheSize    = 8 << 20
	maxOpenFiles    = 1000
	compactionLower = 1
	compactionUpper = 2
)

// pebbleOptions are fixed in code: nothing here is a knob.
func pebbleOptions(opts Options, share *registration, log pebble.Logger) *pebble.Options {
	o := &pebble.Options{
		FS:                          opts.FS,
		Cache:                       opts.Cache,
		FileCache:                   opts.FileCache,
		Comparer:                    pebble.DefaultComparer,
		Merger:                      sumMerger,
		FormatMajorVersion:          formatVersion,
		Logger:                      log,
		EventListener:               &pebble.EventListener{}, // logs nothing by itself
		MemTableSize:                uint64(opts.MemTableSize),
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
		LBaseMaxBytes:               64 << 20,
		MaxManifestFileSize:         maxManifest,
		MaxOpenFiles:                maxOpenFiles,
		CompactionConcurrencyRange:  func() (int, int) { return compactionLower, compactionUpper },
	}
	if o.Cache == nil {
		o.CacheSize = ownCacheSize
	}
	if share != nil {
		o.Experimental.CompactionScheduler = share
		o.EventListener.BackgroundError = func(err error) {
			share.failed()
			log.Errorf("background error: %v", err)
		}
		o.EventListener.CompactionEnd = func(info pebble.CompactionInfo) {
			if info.Err == nil {
				share.succeeded()
			}
		}
	}
	o.TargetFileSizes[0] = targetFileSize
	for i := range o.Levels {
		o.Levels[i].BlockSize = blockSize
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(bloomBits)
		o.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.SnappyCompression }
	}
	return o
}

// logger brings Pebble's log into ours. Its Fatalf does not end the process:
// the range is poisoned, and Pebble goes on against the overlay.
type logger struct{ r *Range }

func (l logger) Infof(format string, args ...any) {
	if l.r.log.Enabled(context.Background(), slog.LevelDebug) {
		l.r.log.Debug("pebble", "text", fmt.Sprintf(format, args...))
	}
}

func (l logger) Errorf(format string, args ...any) {
	if l.r.ops.Load() < 0 { // it is closing: compactions are interrupted
		l.Infof(format, args...)
		return
	}
	l.r.log.Warn("pebble", "text", fmt.Sprintf(format, args...))
}

func (l logger) Fatalf(format string, args ...any) {
	l.r.poison(fmt.Errorf(format, args...))
}
