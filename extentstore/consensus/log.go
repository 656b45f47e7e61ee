package consensus

import (
	"context"
	"log/slog"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// newLogger gives hashicorp's libraries a logger that ends in ours. Of what
// they say below a warning nothing is kept: elections and snapshots of a
// single member are not news.
func newLogger(log *slog.Logger) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{
		Name:        "raft",
		Level:       hclog.Warn,
		Output:      lineWriter{log},
		DisableTime: true,
	})
}

// lineWriter turns a line such as "[WARN]  raft: text: key=value" into a record.
type lineWriter struct{ log *slog.Logger }

func (w lineWriter) Write(p []byte) (int, error) {
	line := strings.TrimSpace(string(p))
	level := slog.LevelWarn
	if strings.HasPrefix(line, "[ERROR]") {
		level = slog.LevelError
	}
	if _, text, ok := strings.Cut(line, "]"); ok {
		line = strings.TrimSpace(text)
	}
	if strings.HasPrefix(line, "raft: heartbeat timeout reached, starting election") {
		level = slog.LevelDebug // every start of a single member begins so
	}
	w.log.Log(context.Background(), level, "raft", "text", line)
	return len(p), nil
}
