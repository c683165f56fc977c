package spec

import (
	"fmt"
	"strings"
)

func applyRows() []Row {
	return []Row{{
		Name: "RestartIfChanged", Form: "BOOLEAN", Default: "yes", Words: []string{"yes", "no"},
		Accepted: "accepted: yes, no, true, false, on, off, 1, 0",
		Help: "Whether ampoule apply restarts the VM when what it runs with is not what its files say any more. With no it goes on as it is until somebody restarts it, and ampoule apply says so. " +
			"It has no effect on systemctl restart, and is no part of what the VM runs with: a change of it alone restarts nothing.",
		apply: setScalar(func(vm *VM) *Setting[bool] { return &vm.RestartIfChanged }, ParseBoolean),
	}}
}

// ParseBoolean reads systemd's words for yes and no, in any case.
func ParseBoolean(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "1", "yes", "y", "true", "t", "on":
		return true, nil
	case "0", "no", "n", "false", "f", "off":
		return false, nil
	}
	return false, fmt.Errorf("neither yes nor no")
}
