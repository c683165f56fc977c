package main

import "testing"

// TestGeneratedFilesAreCurrent: what is checked in is what the tables say.
func TestGeneratedFilesAreCurrent(t *testing.T) {
	if err := generate("../..", true); err != nil {
		t.Fatal(err)
	}
}
