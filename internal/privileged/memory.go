package privileged

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ampoule-vm/ampoule/internal/plan"
)

// memory is what is remembered of a VM that was prepared.
type memory struct {
	Owner string          `json:"owner"`
	User  int             `json:"user"`
	Group int             `json:"group"`
	Text  json.RawMessage `json:"plan"`
	Plan  *plan.Plan      `json:"-"`
}

const memoryFile = "prepared.json"

// remember writes down for whom what is about to be done, whole or not at all.
func remember(vm *VM, owner string) error {
	if err := os.Mkdir(vm.Dir, 0o700); err != nil {
		return err
	}
	return writeWhole(vm.Dir, memoryFile, memory{Owner: owner, User: vm.User, Group: vm.Group, Text: vm.Plan.JSON()})
}

// writeWhole writes a file of JSON whole or not at all.
func writeWhole(dir, name string, what any) error {
	text, err := json.Marshal(what)
	if err != nil {
		return err
	}
	part := filepath.Join(dir, name+".new")
	if err := os.WriteFile(part, text, 0o600); err != nil {
		return err
	}
	return os.Rename(part, filepath.Join(dir, name))
}

// recall reads what was remembered; os.ErrNotExist: nothing was.
func recall(dir string) (memory, error) {
	var m memory
	path := filepath.Join(dir, memoryFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("%s: %w", path, err)
	}
	if m.Plan, err = plan.Parse(m.Text); err != nil {
		return m, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}
