package generator

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/emit"
	"github.com/ampoule-vm/ampoule/internal/hostfiles"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// heldDirectory is for units until the next boot.
const heldDirectory = "/run/systemd/system"

// Hold gives the running VMs units that outlive the generator, so that they can
// be stopped in order when Ampoule is removed. They do not start again. It
// returns the units.
func Hold(root, program string) ([]string, error) {
	var held []string
	var failed []error
	w := &Writer{Out: filepath.Join(root, heldDirectory)}
	if err := os.MkdirAll(w.Out, 0o755); err != nil {
		return nil, err
	}
	if err := w.Open(); err != nil {
		return nil, err
	}
	for _, vm := range Running(root) {
		name := spec.UnitName(vm)
		last := LastGood(root)(vm)
		if last == nil {
			// Made by a generator that kept nothing, or not good.
			last, _ = os.ReadFile(filepath.Join(root, Directory, name))
		}
		if last == nil {
			continue // a VM in a unit of somebody else's
		}
		text, err := emit.Kept(last, vm, program, emit.Gone, diag.List{{Origin: diag.Origin{File: program, Line: 1}, What: "ampoule was removed"}})
		var shares []emit.ShareUnit
		if err == nil {
			shares, err = emit.KeptShares(last, program)
		}
		for i := range shares {
			shares[i].Text = append([]byte(hostfiles.HeldMark), shares[i].Text...)
		}
		if err == nil {
			err = w.Write(Unit{VM: vm, Name: name, State: Gone, Text: append([]byte(hostfiles.HeldMark), text...), Shares: shares})
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
			continue
		}
		held = append(held, name)
	}
	return held, errors.Join(failed...)
}

// Release removes the units that Hold made.
func Release(root string) error {
	dir := filepath.Join(root, heldDirectory)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		ours := strings.HasPrefix(e.Name(), "microvm@") || strings.HasPrefix(e.Name(), "microvm-share@")
		if !ours || !e.Type().IsRegular() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		text, err := os.ReadFile(path)
		if err == nil && bytes.HasPrefix(text, []byte(hostfiles.HeldMark)) {
			err = os.Remove(path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
