// Package account is the Account table: names of storage accounts and their
// keys. It knows accounts of one stamp; which stamp an account lives on is the
// LocationService's business.
package account

import (
	"context"
	"time"

	"stamp"
	"stamp/partition/rangestore"
)

// KeySize is the length of an account key in bytes.
const KeySize = 64

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
// writer: it answers lookups from memory. Methods are safe for concurrent use.
type Service struct{ opts Options }

// Open makes a Service on a range.
func Open(ctx context.Context, opts Options) (*Service, error) { panic("being built") }

// Create makes an account with two random keys. Exists if the name is taken,
// Invalid if it is not a name of an account.
func (s *Service) Create(ctx context.Context, name stamp.AccountName) (*Account, error) {
	panic("being built")
}

// Put makes an account with given keys, or gives an existing one these keys;
// a nil key2 is drawn. It is how well-known accounts are made.
func (s *Service) Put(ctx context.Context, name stamp.AccountName, key1, key2 []byte) (*Account, error) {
	panic("being built")
}

// Get finds an account, from memory after the first time. AccountNotFound if
// there is none.
func (s *Service) Get(ctx context.Context, name stamp.AccountName) (*Account, error) {
	panic("being built")
}

// List returns all accounts in order of name.
func (s *Service) List(ctx context.Context) ([]*Account, error) { panic("being built") }

// Rotate draws a new key 1 or 2.
func (s *Service) Rotate(ctx context.Context, name stamp.AccountName, key int) (*Account, error) {
	panic("being built")
}

// ValidName reports whether name is 3 to 24 lower-case letters and digits.
func ValidName(name stamp.AccountName) bool { panic("being built") }
