package blob

import (
	"bytes"
	"context"

	"stamp/partition/schema"
)

// GetBlob finds a blob for reading.
func (s *Service) GetBlob(ctx context.Context, ref Ref, cond Conditions) (*Blob, error) {
	row, object, err := s.read(ctx, "blob.GetBlob", &ref, cond, true)
	if err != nil {
		return nil, err
	}
	return &Blob{Properties: row.Properties(), Content: s.open(object, row)}, nil
}

// GetProperties is GetBlob without the content.
func (s *Service) GetProperties(ctx context.Context, ref Ref, cond Conditions) (*Properties, error) {
	row, _, err := s.read(ctx, "blob.GetProperties", &ref, cond, false)
	if err != nil {
		return nil, err
	}
	p := row.Properties()
	return &p, nil
}

// read reads a base row; its bits, if they are wanted, are the caller's.
func (s *Service) read(ctx context.Context, op string, ref *Ref, cond Conditions, bits bool) (row *Row, object []byte, err error) {
	c, err := s.container(ctx, ref.Account, ref.Container)
	if err != nil {
		return nil, nil, err
	}
	object = schema.AppendObject(make([]byte, 0, len(c.prefix)+len(ref.Name)+3), c.prefix, ref.Name)
	found, err := s.r.Get(ctx, baseKey(object), func(value []byte) (err error) {
		if row, err = parseRow(value); err != nil {
			return err
		}
		if err := cond.checkRead(op, row.state()); err != nil {
			return err
		}
		if bits {
			row.bits = bytes.Clone(row.bits)
		} else {
			row.bits = nil
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	if !found {
		return nil, nil, s.gone(ctx, op, ref, c)
	}
	return row, object, nil
}
