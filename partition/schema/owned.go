package schema

import "stamp/partition/rangestore"

// Rules say what becomes of the rows that belong to a range when it splits and
// when it is merged with the one to its right.
//
//	rows                      split                       merge
//	00 "id" ids               left: goes on; right: ids   the larger
//	                          of its own, from its number
//	01 live bytes             both: too much, so both     added up: what both had is counted
//	                          recount before they collect twice, so it recounts too
//	03 ceiling of versions    both                        the larger
//	04 graves                 both: each removes what     of both; the left one's if the same
//	                          it has of the container
//	05 orphans                both, as their container    of both; the left one's if the same
//	                          may be parted
//	06 uncommitted blocks     follow their blob           of both
//	07 rows of mounts         both: each forgets those    of both; the left one's if the same
//	                          of containers it has not
//
// Three kinds of rows are still to come, with these rules: entries of the
// change feed and ids of requests stand under the key of their object and follow
// it, as 06 does, so that a merge has those of both; copies of containers' rows
// go to both, and as all copies of a container are changed together, either may
// stay. What has no rule goes to both, and the left one's stays.
//
// A range splits at the first row of an object only: Boundary.
func Rules() rangestore.Rules {
	return rangestore.Rules{
		Owned: map[byte]rangestore.Rule{
			TableLive:    {Join: rangestore.JoinSums},
			TableVersion: {Join: rangestore.JoinLarger},
			TableStaged:  {Follow: true},
		},
		Boundary: Boundary,
	}
}

// Boundary is the first key of the object that a key of the Blob table belongs
// to: all rows of an object stay in one range. Other keys are boundaries by
// themselves.
func Boundary(key []byte) []byte {
	_, n, ok := ContainerID(key)
	if !ok {
		return key
	}
	_, rest, _, ok := cutRaw(key[n:])
	if !ok {
		return key
	}
	return key[:len(key)-len(rest)]
}
