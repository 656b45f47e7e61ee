package manager

import "stamp/extentstore"

// Condemn is the first step of collecting, for extents that were garbage.
func (m *Manager) Condemn(ids ...extentstore.ExtentID) ([]extentstore.ExtentID, error) {
	return m.proposeCollect(ids, nil)
}
