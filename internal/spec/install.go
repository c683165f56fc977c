package spec

import (
	"cmp"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/layer"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// Link is what a line of [Install] asks for. The generator makes it in the
// place of systemctl enable, which leaves generated units alone.
type Link struct {
	// Directory is "TARGET.wants" and so on; "" for another name of the unit.
	Directory string
	// Name is that of the link: the unit's own, or its other name.
	Name string
}

// installDirectory is the suffix of the directory by which a key hangs a unit on
// others, "" for one that does not (systemd.unit(5), "[Install] Section Options").
func installDirectory(key string) string {
	switch key {
	case "WantedBy":
		return ".wants"
	case "RequiredBy":
		return ".requires"
	case "UpheldBy":
		return ".upholds"
	}
	return ""
}

const acceptedUnits = "accepted: names of units, such as multi-user.target"

// readInstall makes the links of the live lines of [Install], sorted.
func (r *reader) readInstall(resolved *layer.Resolved) {
	for _, g := range resolved.Groups {
		if g.Section != "Install" {
			continue
		}
		for _, e := range g.Effective() {
			r.readInstallLine(From{Origin: e.Origin, Key: e.Key, Shown: showJoined(e.Assignment, e.Value)}, e.Value)
		}
	}
	slices.SortFunc(r.vm.Install, func(a, b Link) int {
		return cmp.Or(cmp.Compare(a.Directory, b.Directory), cmp.Compare(a.Name, b.Name))
	})
	r.vm.Install = slices.Compact(r.vm.Install)
}

func (r *reader) readInstallLine(from From, value string) {
	unit := r.vm.Identity.Unit()
	suffix := installDirectory(from.Key)
	switch from.Key {
	case "Also", "DefaultInstance":
		from.Errorf(r.problems, "write Wants= into [Unit] for units that are to start with the VM", "only systemctl enable reads this key, and %s is enabled by the lines of [Install] alone", unit)
		return
	case "Alias":
	default:
		if suffix == "" {
			return // X-…, or unknown and reported
		}
	}
	words, err := unitfile.SplitWords(value)
	if err != nil {
		from.Errorf(r.problems, acceptedUnits, "%v", err)
		return
	}
	for _, word := range words {
		name, err := r.vm.Identity.Expand(word)
		switch {
		case err != nil:
			r.refuse(from, err, acceptedUnits)
		case !isUnitName(name):
			from.Errorf(r.problems, acceptedUnits, "%q is not the name of a unit", name)
		case suffix != "":
			r.vm.Install = append(r.vm.Install, Link{Directory: name + suffix, Name: unit})
		case !isAlias(name, unit):
			// systemd takes another name of an instance only if it is an
			// instance of that name too.
			from.Errorf(r.problems, "accepted: OTHER@"+r.vm.Identity.Name+".service", "systemd does not take %s as another name of %s", name, unit)
		case name != unit:
			r.vm.Install = append(r.vm.Install, Link{Name: name})
		}
	}
}

// isAlias reports whether both are services and instances of one name.
func isAlias(name, unit string) bool {
	_, instance, ok := strings.Cut(name, "@")
	_, own, _ := strings.Cut(unit, "@")
	return ok && instance == own
}

// isUnitName follows systemd's rule for the names of units that are no
// templates (unit_name_is_valid in src/basic/unit-name.c of systemd).
func isUnitName(name string) bool {
	const letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:-_.\\@"
	types := []string{"service", "socket", "target", "device", "mount", "automount", "swap", "timer", "path", "slice", "scope"}
	dot := strings.LastIndexByte(name, '.')
	if dot <= 0 || len(name) > 255 || strings.Trim(name, letters) != "" || !slices.Contains(types, name[dot+1:]) {
		return false
	}
	at := strings.IndexByte(name, '@')
	return at != 0 && at != dot-1
}
