// Package systemdkeys is the table of the keys that systemd accepts in the
// sections [Unit], [Service] and [Install] of a service: which version knows
// each, what an empty assignment does, and whether a change reaches a service
// that is running. It holds facts about systemd and answers by name. It knows
// no key of Ampoule's own, reads no unit file, judges no value and asks no
// host which systemd it runs.
//
// The tables (table_*.go) are generated from systemd's own key table, release
// by release; what cannot be read from there (kinds, replacements, restarts)
// is decided in gen/, with the reasons. After a new release, with a checkout
// of systemd that has its tags:
//
//	go run ./internal/systemdkeys/gen -systemd PATH
//
// A key that gen has no rule for stops it and is named. The tests compare the
// tables with the systemd that is installed, and with the roots named in
// AMPOULE_SYSTEMD_ROOTS (separated by colons).
//
// # What a restart is needed for
//
// systemd reads the unit again at daemon-reload, and some of it concerns what
// is yet to come, some the running processes. [Key.Restart] is true where
// starting the service with the new value would have made other processes, or
// would have made them otherwise, than those that are running:
//
//   - what is done to a process before it executes: command lines, environment,
//     credentials, user, name spaces and sandbox, limits, standard streams,
//     directories, log settings (journald keeps what was exported at the start);
//   - the steps of the start, ExecCondition= to ExecStartPost=, for they may
//     have left something behind, and the rules by which it counted as started
//     (Type=, NotifyAccess=, PIDFile=, …);
//   - file descriptors handed over at the start (Sockets=, OpenFile=);
//   - the place in the cgroup tree and its delegation: the cgroup of a running
//     service is not moved;
//   - rules that are looked at when something is opened or bound
//     (DevicePolicy=, SocketBindAllow=): what is open stays open.
//
// It is false for what is consulted when it is needed: how to stop, kill,
// reload and restart, which exit statuses are good, what follows a failure,
// time-outs, conditions, dependencies and the words that describe the unit. It
// is false too for resource control, which systemd writes to the cgroup of a
// running service at daemon-reload (seen with 252, 254 and 262): [Key.Cgroup].
// Versions 256 and 257 do not (seen with 257): [Key.NeedsRestart] knows.
package systemdkeys

import (
	"slices"
	"strings"
)

// Kind is what repeated and empty assignments of a key do.
type Kind int

// The kinds. An empty assignment returns a Scalar to systemd's default, unless
// [Key.KeepsOnEmpty] says otherwise, and clears a List; two lists then mean
// something of their own: CapabilityBoundingSet= no capability at all,
// Delegate= yes without controllers. A list of Dependencies can only grow.
const (
	Scalar       Kind = iota // the last assignment counts
	List                     // assignments add up
	Dependencies             // assignments add up; an empty one is ignored without a word
)

// String returns the word for a kind.
func (k Kind) String() string {
	switch k {
	case Scalar:
		return "scalar"
	case List:
		return "list"
	case Dependencies:
		return "dependencies"
	}
	return "unknown kind"
}

// Oldest is the version from which on the tables tell versions apart: a key
// that is older has Since Oldest.
const Oldest = 183

// Key is what is known of one key in one section.
type Key struct {
	Section, Name string
	// Since is the first version of systemd that accepts the key, at least
	// Oldest.
	Since int
	// Ignored is the first version that still accepts the key, warns, and does
	// nothing; 0 where there is none.
	Ignored int
	// Removed is the first version that does not know the key any more; 0
	// where there is none.
	Removed int
	// Kind says what repeated and empty assignments do.
	Kind Kind
	// KeepsOnEmpty is true where an empty assignment leaves the key as it was:
	// always for Dependencies; for a Scalar, where a version since 252 warns
	// that it cannot parse the empty value (DynamicUser= even refuses the
	// unit). Whoever wants the default back must write it out.
	KeepsOnEmpty bool
	// Restart is true where a change does not, or not wholly, reach a service
	// that is running; see the package's documentation.
	Restart bool
	// Cgroup is true where a change reaches a running service in that systemd
	// writes its cgroup again; see [Key.NeedsRestart].
	Cgroup bool
	// Replaced is what to write instead where systemd's own documentation has
	// turned to another key: a name in the same section, or "[Unit] NAME". It
	// is empty where the key is current, and where nothing took its place.
	Replaced string
}

// State is what a version of systemd makes of a key.
type State int

// The states of a key.
const (
	NotYet  State = iota // the version is older than the key: it warns and goes on without
	Honours              // the key has its effect
	Ignores              // the key is known, without effect
	Dropped              // the version has forgotten the key: it warns and goes on without
)

// In returns what systemd of the given version makes of the key. It tells
// releases apart, not builds: one without SELinux support, say, knows
// SELinuxContext= and ignores it.
func (k Key) In(version int) State {
	switch {
	case version < k.Since:
		return NotYet
	case k.Removed != 0 && version >= k.Removed:
		return Dropped
	case k.Ignored != 0 && version >= k.Ignored:
		return Ignores
	}
	return Honours
}

// NeedsRestart reports whether systemd of the given version leaves a running
// service, daemon-reload or not, with the old value of the key. It differs
// from Restart in two versions: 256 and 257 forget to write the cgroup again.
func (k Key) NeedsRestart(version int) bool {
	return k.Restart || k.Cgroup && (version == 256 || version == 257)
}

// extension is the prefix of sections and keys that systemd leaves to others.
const extension = "X-"

// Lookup returns the key of that exact name (systemd's names are
// case-sensitive), whatever has become of it since: ask [Key.In]. A name with
// the prefix X- is found in every section of [Sections], every name in a
// section with that prefix; systemd passes over both without a word.
func Lookup(section, name string) (Key, bool) {
	for _, table := range tables(section) {
		i, found := slices.BinarySearchFunc(table, name, func(k Key, name string) int {
			return strings.Compare(k.Name, name)
		})
		if found {
			return table[i], true
		}
	}
	if strings.HasPrefix(section, extension) || strings.HasPrefix(name, extension) && tables(section) != nil {
		return Key{Section: section, Name: name, Since: Oldest, Kind: List}, true
	}
	return Key{}, false
}

// Keys returns the names in a section that are worth suggesting: those that
// the newest systemd of the tables honours and has no other name for. They
// are sorted; the slice is the caller's. An unknown section has none.
func Keys(section string) []string {
	var names []string
	for _, table := range tables(section) {
		for _, k := range table {
			if k.In(Newest) == Honours && k.Replaced == "" {
				names = append(names, k.Name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// Sections returns the names of the sections that a service may have, sorted.
// Those with the prefix X- pass as well.
func Sections() []string { return []string{"Install", "Service", "Unit"} }

// tables returns what is known of a section, each part sorted by name.
func tables(section string) [][]Key {
	switch section {
	case "Install":
		return [][]Key{installKeys[:]}
	case "Service":
		return [][]Key{serviceKeys[:], execKeys[:], cgroupKeys[:], killKeys[:]}
	case "Unit":
		return [][]Key{unitKeys[:]}
	}
	return nil
}
