package file

import (
	"context"

	"stamp/partition/blob"
	"stamp/partition/rangestore"
	"stamp/partition/schema"
)

// repeated returns the outcome of an earlier attempt of the request, or nil.
func (s *Service) repeated(tx *blob.RowTx, id RequestID) (*schema.RequestRow, error) {
	if id.IsZero() {
		return nil, nil
	}
	row := new(schema.RequestRow)
	ok, err := message(tx, schema.RequestKey(id), row)
	if err != nil || !ok {
		return nil, err
	}
	return row, nil
}

// remember keeps the outcome of a request with its commit.
func (s *Service) remember(tx *blob.RowTx, id RequestID, row *schema.RequestRow) error {
	if id.IsZero() {
		return nil
	}
	row.Time = s.now()
	value, err := schema.AppendMessage(nil, row, 0)
	if err != nil {
		return err
	}
	return tx.Raw().Set(schema.RequestKey(id), value)
}

// forgetBatch is how many outcomes one commit forgets.
const forgetBatch = 1000

// forgetRequests removes outcomes that are older than RequestTime.
func (s *Service) forgetRequests(ctx context.Context) error {
	var old [][]byte
	limit := s.clock.Now().Add(-RequestTime).UnixNano()
	err := s.rows.View(ctx, func(v *rangestore.Snapshot) error {
		return each(v, schema.RequestsPrefix(), func(key, value []byte) error {
			row := new(schema.RequestRow)
			if _, err := schema.ParseMessage(value, row); err != nil {
				return err
			}
			if row.Time < limit {
				old = append(old, key)
			}
			return nil
		})
	})
	for len(old) > 0 && err == nil {
		n := min(len(old), forgetBatch)
		err = s.rows.Update(ctx, rangestore.Latches{}, func(tx *rangestore.Tx) error {
			for _, key := range old[:n] {
				if err := tx.Delete(key); err != nil {
					return err
				}
			}
			return nil
		})
		old = old[n:]
	}
	return err
}
