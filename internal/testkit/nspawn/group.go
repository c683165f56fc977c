package nspawn

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// group is the name of a control group, the same in each hierarchy.
type group string

// ownGroup is a control group that no other host has, and the lines of a shell script
// by which the shell puts itself into it. In one that two hosts have, each finds the
// other's services by their names, and kills them with its own.
func ownGroup() (group, string) {
	name := fmt.Sprintf("ampoule-%d-%d", os.Getpid(), machines.Add(1))
	// Where a group of the unified hierarchy is below another, that one has to pass the
	// controllers on. One that cannot be made is done without.
	return group(name), `while IFS=: read -r number names path; do
	case $names in
	"") top=/sys/fs/cgroup/unified; [ -d $top ] || top=/sys/fs/cgroup ;;
	name=systemd) top=/sys/fs/cgroup/systemd ;;
	*) continue ;;
	esac
	for c in cpu io memory pids; do echo +$c >"$top$path/cgroup.subtree_control"; done
	mkdir "$top$path/` + name + `" && echo $$ >"$top$path/` + name + `/cgroup.procs"
done 2>/dev/null </proc/self/cgroup
`
}

// remove removes what is left of the group, in which nothing runs any more.
func (g group) remove() {
	var left []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && slices.Contains(strings.Split(path, "/"), string(g)) {
			left = append(left, path)
		}
		return nil
	})
	for _, path := range slices.Backward(left) {
		_ = os.Remove(path)
	}
}
