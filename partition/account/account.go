// Package account is the Account table: names of storage accounts and their
// keys. It knows accounts of one stamp; which stamp an account lives on is the
// LocationService's business.
package account

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"stamp"
	"stamp/partition/rangestore"
	"stamp/partition/schema"
)

// KeySize is the length of a drawn account key in bytes.
const KeySize = 64

// MaxKeySize is the longest key that Put takes.
const MaxKeySize = 1024

// Account is what the table holds of an account. It is shared between callers
// and must not be changed.
type Account struct {
	Name       stamp.AccountName
	Created    time.Time
	Keys       [2][]byte // each KeySize bytes unless Put gave others
	KeyCreated [2]time.Time
}

// Options configures a Service.
type Options struct {
	Range *rangestore.Range // Required: holds the Account table.
	Clock stamp.Clock       // nil means SystemClock.
}

// A Service reads and changes the Account table. It must be its range's only
// writer: it holds all accounts in memory and answers lookups from there.
// Methods are safe for concurrent use.
type Service struct {
	r     *rangestore.Range
	clock stamp.Clock

	changing sync.Mutex // held by a change until memory has it too

	mu       sync.RWMutex // guards accounts
	accounts map[stamp.AccountName]*Account
}

// Open makes a Service on a range and reads all accounts.
func Open(ctx context.Context, opts Options) (*Service, error) {
	if opts.Range == nil {
		return nil, stamp.Errorf(stamp.Invalid, "account.Open", "Range is required")
	}
	if opts.Clock == nil {
		opts.Clock = stamp.SystemClock{}
	}
	s := &Service{r: opts.Range, clock: opts.Clock, accounts: make(map[stamp.AccountName]*Account)}
	err := s.r.View(ctx, func(v *rangestore.Snapshot) error {
		it, err := v.Iter([]byte{schema.TableAccount}, []byte{schema.TableAccount + 1})
		if err != nil {
			return err
		}
		defer it.Close()
		for ok := it.First(); ok; ok = it.Next() {
			a, err := decode(it.Key(), it.Value())
			if err != nil {
				return err
			}
			s.accounts[a.Name] = a
		}
		return it.Error()
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func decode(key, value []byte) (*Account, error) {
	name, ok := schema.ParseAccountKey(key)
	if !ok {
		return nil, stamp.Errorf(stamp.Corrupt, "account.Open", "key %x is not an account's", key)
	}
	var row schema.AccountRow
	if _, err := schema.ParseMessage(value, &row); err != nil {
		return nil, err
	}
	return &Account{
		Name:       name,
		Created:    time.Unix(0, row.Created).UTC(),
		Keys:       [2][]byte{row.Key1, row.Key2},
		KeyCreated: [2]time.Time{time.Unix(0, row.Key1Created).UTC(), time.Unix(0, row.Key2Created).UTC()},
	}, nil
}

func drawKey() []byte {
	key := make([]byte, KeySize)
	rand.Read(key) // never fails
	return key
}

// Create makes an account with two random keys. Exists if the name is taken,
// Invalid if it is not a name of an account.
func (s *Service) Create(ctx context.Context, name stamp.AccountName) (*Account, error) {
	return s.change(ctx, "account.Create", name, func(old *Account) (*Account, error) {
		if old != nil {
			return nil, stamp.Errorf(stamp.Exists, "account.Create", "account %s exists", name)
		}
		return &Account{Keys: [2][]byte{drawKey(), drawKey()}}, nil
	})
}

// Put makes an account with given keys, or gives an existing one these keys;
// a nil key2 is kept or drawn. It is how well-known accounts are made. It
// changes nothing if the account has these keys.
func (s *Service) Put(ctx context.Context, name stamp.AccountName, key1, key2 []byte) (*Account, error) {
	if len(key1) == 0 || len(key1) > MaxKeySize || len(key2) > MaxKeySize {
		return nil, stamp.Errorf(stamp.Invalid, "account.Put", "account %s: keys of %d and %d bytes, want 1 to %d", name, len(key1), len(key2), MaxKeySize)
	}
	return s.change(ctx, "account.Put", name, func(old *Account) (*Account, error) {
		a := &Account{Keys: [2][]byte{bytes.Clone(key1), bytes.Clone(key2)}}
		if old != nil {
			a.Created, a.KeyCreated = old.Created, old.KeyCreated
			if key2 == nil {
				a.Keys[1] = old.Keys[1]
			}
			for i := range a.Keys {
				if !bytes.Equal(a.Keys[i], old.Keys[i]) {
					a.KeyCreated[i] = time.Time{}
				}
			}
			if !a.KeyCreated[0].IsZero() && !a.KeyCreated[1].IsZero() {
				return old, nil
			}
		}
		if a.Keys[1] == nil {
			a.Keys[1] = drawKey()
		}
		return a, nil
	})
}

// Rotate draws a new key 1 or 2.
func (s *Service) Rotate(ctx context.Context, name stamp.AccountName, key int) (*Account, error) {
	if key != 1 && key != 2 {
		return nil, stamp.Errorf(stamp.Invalid, "account.Rotate", "account %s: key %d, want 1 or 2", name, key)
	}
	return s.change(ctx, "account.Rotate", name, func(old *Account) (*Account, error) {
		if old == nil {
			return nil, notFound("account.Rotate", name)
		}
		a := *old
		a.Keys[key-1], a.KeyCreated[key-1] = drawKey(), time.Time{}
		return &a, nil
	})
}

// change writes what fn makes of an account; zero times become now. Lookups
// see it when it is durable.
func (s *Service) change(ctx context.Context, op string, name stamp.AccountName, fn func(old *Account) (*Account, error)) (*Account, error) {
	if !ValidName(name) {
		return nil, stamp.Errorf(stamp.Invalid, op, "%q is not a name of an account: want 3 to 24 lower-case letters and digits", name)
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	key := schema.AccountKey(name)
	var a *Account
	err := s.r.Update(ctx, rangestore.Latches{Write: [][]byte{key}}, func(tx *rangestore.Tx) error {
		value, found, err := tx.Get(key)
		if err != nil {
			return err
		}
		var old *Account
		if found {
			if old, err = decode(key, bytes.Clone(value)); err != nil {
				return err
			}
		}
		if a, err = fn(old); err != nil || a == old {
			return err
		}
		return s.write(tx, key, name, a)
	})
	if err != nil {
		return nil, errors.Join(err, s.refresh(key, name))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accounts[name] = a
	return a, nil
}

// refresh reads an account after a change that failed: it may have taken effect
// all the same.
func (s *Service) refresh(key []byte, name stamp.AccountName) error {
	ctx, cancel := context.WithTimeout(context.Background(), refreshTimeout)
	defer cancel()
	var a *Account
	found, err := s.r.Get(ctx, key, func(value []byte) (err error) {
		a, err = decode(key, value)
		return err
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !found {
		delete(s.accounts, name)
	} else {
		s.accounts[name] = a
	}
	return nil
}

const refreshTimeout = 10 * time.Second

func (s *Service) write(tx *rangestore.Tx, key []byte, name stamp.AccountName, a *Account) error {
	now := s.clock.Now().Round(0).UTC()
	a.Name = name
	for _, t := range []*time.Time{&a.Created, &a.KeyCreated[0], &a.KeyCreated[1]} {
		if t.IsZero() {
			*t = now
		}
	}
	value, err := schema.AppendMessage(nil, &schema.AccountRow{
		Created: a.Created.UnixNano(),
		Key1:    a.Keys[0], Key1Created: a.KeyCreated[0].UnixNano(),
		Key2: a.Keys[1], Key2Created: a.KeyCreated[1].UnixNano(),
	}, 0)
	if err != nil {
		return err
	}
	return tx.Set(key, value)
}

func notFound(op string, name stamp.AccountName) error {
	return stamp.Errorf(stamp.AccountNotFound, op, "there is no account %s", name)
}

// Get finds an account, from memory. AccountNotFound if there is none.
func (s *Service) Get(ctx context.Context, name stamp.AccountName) (*Account, error) {
	s.mu.RLock()
	a := s.accounts[name]
	s.mu.RUnlock()
	if a == nil {
		return nil, notFound("account.Get", name)
	}
	return a, nil
}

// List returns all accounts in order of name.
func (s *Service) List(ctx context.Context) ([]*Account, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]*Account, 0, len(s.accounts))
	for _, a := range s.accounts {
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b *Account) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return all, nil
}

// ValidName reports whether name is 3 to 24 lower-case letters and digits.
func ValidName(name stamp.AccountName) bool {
	if len(name) < 3 || len(name) > 24 {
		return false
	}
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}
