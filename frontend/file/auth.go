package file

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/metadata"

	"stamp"
)

// Who calls stands in the metadata of each call:
//
//	stamp-account    the account
//	stamp-time       milliseconds since 1970, decimal
//	stamp-nonce      16 hexadecimal digits of the client, "-", a count, decimal
//	stamp-signature  base64 of the HMAC-SHA256, under one of the account's
//	                 keys, of "stamp-file-v1", method, account, time and nonce,
//	                 each followed by a line feed
//
// The server refuses a time that is further than maxSkew from its own, and a
// count that the client has used before. What is signed is the right to call,
// not the message: the connection protects that, so only TLS, or loopback, or a
// network that the operator calls safe, is spoken over.
const (
	mdAccount   = "stamp-account"
	mdTime      = "stamp-time"
	mdNonce     = "stamp-nonce"
	mdSignature = "stamp-signature"

	maxSkew = 5 * time.Minute
)

func signature(key []byte, method, account, at, nonce string) string {
	mac := hmac.New(sha256.New, key)
	for _, s := range []string{"stamp-file-v1", method, account, at, nonce} {
		mac.Write([]byte(s))
		mac.Write([]byte{'\n'})
	}
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// signer signs a client's calls.
type signer struct {
	account stamp.AccountName
	key     []byte
	clock   stamp.Clock
	id      string
	count   atomic.Uint64
}

func newSigner(account stamp.AccountName, key []byte, clock stamp.Clock) *signer {
	var id [8]byte
	rand.Read(id[:]) // never fails
	return &signer{account: account, key: key, clock: clock, id: hex.EncodeToString(id[:])}
}

func (s *signer) sign(ctx context.Context, method string) context.Context {
	at := strconv.FormatInt(s.clock.Now().UnixMilli(), 10)
	nonce := s.id + "-" + strconv.FormatUint(s.count.Add(1), 10)
	return metadata.AppendToOutgoingContext(ctx,
		mdAccount, string(s.account), mdTime, at, mdNonce, nonce,
		mdSignature, signature(s.key, method, string(s.account), at, nonce))
}

// Keys returns the keys of an account, or AccountNotFound.
type Keys func(ctx context.Context, account stamp.AccountName) ([][]byte, error)

// verifier checks a server's callers.
type verifier struct {
	keys  Keys
	clock stamp.Clock

	mu      sync.Mutex // guards clients
	clients map[string]*window
}

// A window tells which of a client's last counts were used.
type window struct {
	highest uint64
	used    [windowSize / 64]uint64 // by count modulo windowSize
	seen    time.Time
}

const (
	windowSize = 4096    // how far out of order a client's calls may come
	maxClients = 100_000 // that a server remembers
)

func newVerifier(keys Keys, clock stamp.Clock) *verifier {
	return &verifier{keys: keys, clock: clock, clients: make(map[string]*window)}
}

// check returns who calls, or Denied.
func (v *verifier) check(ctx context.Context, method string) (stamp.AccountName, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	get := func(name string) string {
		if s := md.Get(name); len(s) == 1 {
			return s[0]
		}
		return ""
	}
	account, at, nonce := get(mdAccount), get(mdTime), get(mdNonce)
	denied := func(why string) (stamp.AccountName, error) {
		return "", stamp.Errorf(stamp.Denied, "file.Server", "account %q: %s", account, why)
	}
	ms, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return denied("the call is not signed")
	}
	now := v.clock.Now()
	if skew := now.Sub(time.UnixMilli(ms)); skew > maxSkew || skew < -maxSkew {
		return denied("the clocks differ by " + skew.Round(time.Second).String())
	}
	keys, err := v.keys(ctx, stamp.AccountName(account))
	if err != nil && stamp.KindOf(err) != stamp.AccountNotFound {
		return "", err
	}
	good := false
	for _, key := range keys {
		want := signature(key, method, account, at, nonce)
		good = hmac.Equal([]byte(want), []byte(get(mdSignature))) || good
	}
	if !good {
		return denied("there is no such account, or the key is wrong")
	}
	if !v.isFresh(nonce, now) {
		return denied("the call was seen before")
	}
	return stamp.AccountName(account), nil
}

// isFresh notes a nonce and reports whether it is used for the first time. It
// is only asked about calls with a good signature.
func (v *verifier) isFresh(nonce string, now time.Time) bool {
	if len(nonce) < 18 || nonce[16] != '-' {
		return false
	}
	count, err := strconv.ParseUint(nonce[17:], 10, 64)
	if err != nil || count == 0 {
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	w := v.clients[nonce[:16]]
	if w == nil {
		if len(v.clients) >= maxClients {
			if v.expire(now); len(v.clients) >= maxClients {
				return false
			}
		}
		w = new(window)
		v.clients[nonce[:16]] = w
	}
	w.seen = now
	return w.use(count)
}

func (w *window) use(count uint64) bool {
	bit := func(c uint64) (*uint64, uint64) { return &w.used[c%windowSize/64], 1 << (c % 64) }
	if count > w.highest {
		if count-w.highest >= windowSize {
			w.used = [windowSize / 64]uint64{}
		} else {
			for c := w.highest + 1; c < count; c++ {
				word, mask := bit(c)
				*word &^= mask
			}
		}
		w.highest = count
		word, mask := bit(count)
		*word |= mask
		return true
	}
	if w.highest-count >= windowSize {
		return false
	}
	word, mask := bit(count)
	if *word&mask != 0 {
		return false
	}
	*word |= mask
	return true
}

// expire forgets clients whose signatures are too old by now. The caller holds
// mu.
func (v *verifier) expire(now time.Time) {
	for id, w := range v.clients {
		if now.Sub(w.seen) > 2*maxSkew {
			delete(v.clients, id)
		}
	}
}
