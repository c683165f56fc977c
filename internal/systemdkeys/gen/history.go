package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// fact is what the releases together say of a key.
type fact struct {
	name                    name
	since, ignored, removed int
	// last is the newest row with an effect.
	last entry
	// parsers are the functions that read the key with effect, in the
	// versions that a host may run.
	parsers []string
}

// oldestHost is the oldest systemd that Ampoule runs under.
const oldestHost = 252

// fold turns releases, oldest first, into one fact per key, sorted by name. A
// key that was gone or without effect and came back is an error: the tables
// have no words for it.
func fold(releases []release) ([]fact, error) {
	facts := make(map[name]*fact)
	for _, r := range releases {
		for n, e := range r.keys {
			f := facts[n]
			if f == nil {
				f = &fact{name: n, since: r.version}
				facts[n] = f
			}
			if f.removed != 0 || f.ignored != 0 && !e.legacy {
				return nil, fmt.Errorf("%v is back in version %d", n, r.version)
			}
			switch {
			case !e.legacy:
				f.last = e
				if r.version >= oldestHost && !slices.Contains(f.parsers, e.parser) {
					f.parsers = append(f.parsers, e.parser)
				}
			case f.ignored == 0:
				f.ignored = r.version
			}
		}
		for n, f := range facts {
			if _, ok := r.keys[n]; !ok && f.removed == 0 {
				f.removed = r.version
			}
		}
	}
	names := slices.SortedFunc(maps.Keys(facts), func(a, b name) int { return strings.Compare(a.String(), b.String()) })
	list := make([]fact, 0, len(names))
	for _, n := range names {
		if facts[n].last.parser == "" {
			return nil, fmt.Errorf("%v never had an effect", n)
		}
		list = append(list, *facts[n])
	}
	return list, nil
}
