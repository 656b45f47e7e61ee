package manager

import "stamp/extentstore"

// Condemn is the first step of collecting, for extents that were garbage.
func (m *Manager) Condemn(ids ...extentstore.ExtentID) ([]extentstore.ExtentID, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.lead.todo.errands.collect(m.lead.ctx, ids, nil)
}
