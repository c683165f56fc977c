package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/shim/layout"
)

func TestShim(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	h := Host{Programs: []string{first, second}}
	if _, _, err := h.Shim(); err == nil || !strings.Contains(err.Error(), "is in none of "+first+", "+second) {
		t.Errorf("absent: %v", err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	// This test's own program is one for this processor. It names the marker as
	// well, so that a program without it has to be made.
	other := []byte(strings.ReplaceAll(string(self), layout.Marker, strings.Repeat("x", len(layout.Marker))))
	for _, tt := range []struct {
		name string
		data []byte
		mode os.FileMode
		want string
	}{
		{"not executable", self, 0o600, "is in none of"},
		{"a script", []byte("#!/bin/sh\n" + layout.Marker), 0o755, "not a program for the guest's processor"},
		{"empty", nil, 0o755, "not a program"},
		{"another version", other, 0o755, "another version of Ampoule"},
		{"right", self, 0o755, ""},
	} {
		path := filepath.Join(second, shimName)
		os.Remove(path)
		if err := os.WriteFile(path, tt.data, tt.mode); err != nil {
			t.Fatal(err)
		}
		f, size, err := h.Shim()
		switch {
		case tt.want == "" && (err != nil || size != int64(len(self))):
			t.Errorf("%s: %d bytes, %v", tt.name, size, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v", tt.name, err)
		}
		if f != nil {
			f.Close()
		}
	}
}
