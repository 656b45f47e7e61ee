package file

import (
	"bytes"
	"context"
	"time"

	"stamp"
	"stamp/partition/blob"
	"stamp/partition/rangestore"
	"stamp/partition/schema"
)

// A session is a mount's. It has a row, and one more row for each orphan that
// it keeps: a file that it has unlinked while it was open. A session that is
// closed, or not renewed for a lease, ends: its orphans are removed, then its
// row. When the range is opened anew every session begins a fresh lease, so
// that mounts come back after a restart.

type session struct {
	account stamp.AccountName
	renewed time.Time
}

// each calls fn with copies of the rows whose keys begin with prefix.
func each(v *rangestore.Snapshot, prefix []byte, fn func(key, value []byte) error) error {
	it, err := v.Iter(prefix, schema.PrefixEnd(prefix))
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if err := fn(bytes.Clone(it.Key()), bytes.Clone(it.Value())); err != nil {
			return err
		}
	}
	return it.Error()
}

func (s *Service) loadSessions(ctx context.Context) error {
	s.sessionsMu.Lock()
	defer s.sessionsMu.Unlock()
	now := s.clock.Now()
	return s.rows.View(ctx, func(v *rangestore.Snapshot) error {
		return each(v, schema.SessionsPrefix(), func(key, value []byte) error {
			id, ok := schema.ParseSessionKey(key)
			row := new(schema.SessionRow)
			if _, err := schema.ParseMessage(value, row); err != nil || !ok {
				return stamp.Errorf(stamp.Corrupt, "file.Open", "session row with key %x: %w", key, err)
			}
			s.sessions[SessionID(id)] = session{stamp.AccountName(row.Account), now}
			return nil
		})
	})
}

// OpenSession begins a session.
func (s *Service) OpenSession(ctx context.Context, account stamp.AccountName) (SessionID, time.Duration, error) {
	id, err := s.rows.NextIDs(ctx, 1)
	if err != nil {
		return 0, 0, err
	}
	value, err := schema.AppendMessage(nil, &schema.SessionRow{Account: string(account), Begun: s.now()}, 0)
	if err != nil {
		return 0, 0, err
	}
	err = s.rows.Update(ctx, rangestore.Latches{}, func(tx *rangestore.Tx) error {
		return tx.Set(schema.SessionKey(id), value)
	})
	if err != nil {
		return 0, 0, err
	}
	s.sessionsMu.Lock()
	s.sessions[SessionID(id)] = session{account, s.clock.Now()}
	s.sessionsMu.Unlock()
	return SessionID(id), s.opts.Lease, nil
}

// RenewSession keeps a session alive. NotFound if it has ended.
func (s *Service) RenewSession(_ context.Context, account stamp.AccountName, id SessionID) error {
	s.sessionsMu.Lock()
	defer s.sessionsMu.Unlock()
	if have, ok := s.sessions[id]; !ok || have.account != account {
		return stamp.Errorf(stamp.NotFound, "file.RenewSession", "session %d has ended", id)
	}
	s.sessions[id] = session{account, s.clock.Now()}
	return nil
}

// CloseSession ends a session and removes what it kept. Ending it twice is no
// error.
func (s *Service) CloseSession(ctx context.Context, account stamp.AccountName, id SessionID) error {
	s.sessionsMu.Lock()
	if have, ok := s.sessions[id]; ok && have.account != account {
		s.sessionsMu.Unlock()
		return stamp.Errorf(stamp.NotFound, "file.CloseSession", "session %d is not account %s's", id, account)
	}
	delete(s.sessions, id)
	s.sessionsMu.Unlock()
	type orphan struct {
		row *schema.KeptRow
		ref Ref
	}
	var kept []orphan
	err := s.rows.View(ctx, func(v *rangestore.Snapshot) error {
		return each(v, schema.KeptPrefix(uint64(id)), func(key, value []byte) error {
			_, _, fileID, ok := schema.ParseKeptKey(key)
			row := new(schema.KeptRow)
			if _, err := schema.ParseMessage(value, row); err != nil || !ok {
				return stamp.Errorf(stamp.Corrupt, "file.CloseSession", "row with key %x: %w", key, err)
			}
			if row.Account != string(account) {
				return nil
			}
			kept = append(kept, orphan{row, Ref{Container: row.Container, ID: FileID(fileID), Session: id}})
			return nil
		})
	})
	if err != nil {
		return err
	}
	for _, o := range kept {
		err := s.Drop(ctx, stamp.AccountName(o.row.Account), o.ref)
		if err != nil && stamp.KindOf(err) != stamp.ContainerNotFound {
			return err
		}
	}
	return s.rows.Update(ctx, rangestore.Latches{}, func(tx *rangestore.Tx) error {
		prefix := schema.KeptPrefix(uint64(id)) // of containers that are gone
		if err := tx.DeleteRange(prefix, schema.PrefixEnd(prefix)); err != nil {
			return err
		}
		return tx.Delete(schema.SessionKey(uint64(id)))
	})
}

// Drop removes an orphan. Dropping it twice is no error.
func (s *Service) Drop(ctx context.Context, account stamp.AccountName, ref Ref) error {
	o := object(ref)
	return s.blobs.UpdateRows(ctx, account, ref.Container, blob.Change{Objects: []blob.Object{o}}, func(tx *blob.RowTx) error {
		row, err := tx.Get(o)
		if err != nil {
			return err
		}
		if row != nil {
			if err := tx.Delete(o); err != nil {
				return err
			}
		}
		return tx.Raw().Delete(schema.KeptKey(uint64(ref.Session), tx.Container().ID, uint64(ref.ID)))
	})
}

// sweep ends sessions whose lease has run out and forgets old outcomes of
// requests.
func (s *Service) sweep() {
	defer s.stopped.Done()
	every := s.opts.Lease / 4
	timer := s.clock.NewTimer(every)
	defer timer.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-timer.C():
		}
		for id, account := range s.expired() {
			s.log.Warn("session of a mount has run out", "session", uint64(id))
			if err := s.CloseSession(s.ctx, account, id); err != nil && s.ctx.Err() == nil {
				s.log.Warn("session not ended", "session", uint64(id), "err", err)
			}
		}
		if err := s.forgetRequests(s.ctx); err != nil && s.ctx.Err() == nil {
			s.log.Warn("old requests not forgotten", "err", err)
		}
		timer.Reset(every)
	}
}

func (s *Service) expired() map[SessionID]stamp.AccountName {
	s.sessionsMu.Lock()
	defer s.sessionsMu.Unlock()
	out := make(map[SessionID]stamp.AccountName)
	now := s.clock.Now()
	for id, have := range s.sessions {
		if now.Sub(have.renewed) > s.opts.Lease {
			out[id] = have.account
		}
	}
	return out
}
