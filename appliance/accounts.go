package appliance

import (
	"encoding/base64"
	"strings"

	"stamp"
)

// The account and key that Azurite and the Azure storage emulator made known
// to every tool. They are public: a server that uses them protects nothing.
const (
	DevAccount = "devstoreaccount1"
	DevKey     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// AccountKeys is an account with its one or two keys, decoded.
type AccountKeys struct {
	Name stamp.AccountName
	Keys [][]byte
}

// ParseAccounts reads what Azurite takes in AZURITE_ACCOUNTS:
// "name:key1[:key2];name:key1[:key2]...", keys in base64. Errors never show a
// key.
func ParseAccounts(s string) ([]AccountKeys, error) {
	const op = "appliance.ParseAccounts"
	var out []AccountKeys
	seen := map[stamp.AccountName]bool{}
	for _, entry := range strings.Split(s, ";") {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		fields := strings.Split(entry, ":")
		name := stamp.AccountName(fields[0])
		if len(fields) < 2 || len(fields) > 3 {
			return nil, stamp.Errorf(stamp.Invalid, op, "account %q: want name:key1 or name:key1:key2", name)
		}
		if !validAccount(name) {
			return nil, stamp.Errorf(stamp.Invalid, op, "account %q: a name is 3 to 24 lower-case letters and digits", name)
		}
		if seen[name] {
			return nil, stamp.Errorf(stamp.Invalid, op, "account %q is given twice", name)
		}
		seen[name] = true
		a := AccountKeys{Name: name}
		for i, field := range fields[1:] {
			key, err := base64.StdEncoding.DecodeString(field)
			if err != nil || len(key) == 0 {
				return nil, stamp.Errorf(stamp.Invalid, op, "account %q: key %d is not base64", name, i+1)
			}
			a.Keys = append(a.Keys, key)
		}
		out = append(out, a)
	}
	return out, nil
}

func validAccount(name stamp.AccountName) bool {
	if len(name) < 3 || len(name) > 24 {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}
