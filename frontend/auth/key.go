package auth

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"sync"

	"stamp"
)

// signatureLength is the length of a base64 HMAC-SHA256.
const signatureLength = 44

// Key signs with one account key. It keeps hash states that have absorbed the
// key already, which halves the price of a short message.
type Key struct {
	raw  []byte
	pool sync.Pool // of hash.Hash
}

// NewKey makes a Key of a decoded account key.
func NewKey(raw []byte) *Key {
	k := &Key{raw: raw}
	k.pool.New = func() any { return hmac.New(sha256.New, k.raw) }
	return k
}

// Sum appends the HMAC-SHA256 of message to dst.
func (k *Key) Sum(dst, message []byte) []byte {
	h := k.pool.Get().(hash.Hash)
	h.Reset()
	h.Write(message)
	dst = h.Sum(dst)
	k.pool.Put(h)
	return dst
}

// Sign returns the base64 signature of a string to sign.
func (k *Key) Sign(stringToSign string) string {
	return base64.StdEncoding.EncodeToString(k.Sum(nil, []byte(stringToSign)))
}

// keyring is the pair of keys of one account.
type keyring struct {
	primary, secondary *Key
}

// matches reports whether either key signed message, in a time that does not
// depend on where signatures differ.
func (k *keyring) matches(message, signature []byte) bool {
	var sum [sha256.Size]byte
	if hmac.Equal(k.primary.Sum(sum[:0], message), signature) {
		return true
	}
	return k.secondary != nil && hmac.Equal(k.secondary.Sum(sum[:0], message), signature)
}

// keyrings remembers the Keys made for each account. Whether they are still
// the account's is checked at each use, so a new key holds at once.
type keyrings struct {
	m sync.Map // stamp.AccountName -> *keyring
}

func (v *Verifier) keyring(ctx context.Context, account string) (*keyring, error) {
	primary, secondary, err := v.keys(ctx, stamp.AccountName(account))
	if err != nil {
		if stamp.KindOf(err) == stamp.AccountNotFound || stamp.KindOf(err) == stamp.NotFound {
			return nil, refuse(Failed, "the account does not exist")
		}
		return nil, err
	}
	if have, ok := v.rings.m.Load(account); ok {
		if r := have.(*keyring); r.holds(primary, secondary) {
			return r, nil
		}
	}
	r := &keyring{primary: NewKey(bytes.Clone(primary))}
	if len(secondary) > 0 {
		r.secondary = NewKey(bytes.Clone(secondary))
	}
	v.rings.m.Store(account, r)
	return r, nil
}

func (k *keyring) holds(primary, secondary []byte) bool {
	if !hmac.Equal(k.primary.raw, primary) {
		return false
	}
	if k.secondary == nil {
		return len(secondary) == 0
	}
	return hmac.Equal(k.secondary.raw, secondary)
}

// decodeSignature decodes a base64 HMAC-SHA256 into dst.
func decodeSignature(dst *[sha256.Size]byte, s string) bool {
	if len(s) != signatureLength {
		return false
	}
	var in [signatureLength]byte
	copy(in[:], s)
	var out [sha256.Size + 1]byte
	n, err := base64.StdEncoding.Strict().Decode(out[:], in[:])
	if err != nil || n != sha256.Size {
		return false
	}
	copy(dst[:], out[:])
	return true
}
