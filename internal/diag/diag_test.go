package diag

import (
	"strings"
	"testing"
)

func TestError(t *testing.T) {
	o := Origin{File: "web.microvm", Line: 3}
	for _, c := range []struct {
		p    Problem
		want string
	}{
		{Problem{Origin: o, Key: "Memory", Value: "lots", What: "not a size", Accepted: "accepted: 512M"}, "web.microvm:3: Memory=lots: not a size; accepted: 512M"},
		{Problem{Origin: Origin{File: "x"}, What: "the file is empty"}, "x:1: the file is empty"},
		{Problem{Origin: o, Severity: Warning, Key: "K", What: "odd"}, "web.microvm:3: warning: K=: odd"},
		{Problem{What: "no memory"}, "built-in: no memory"},
		{Problem{Origin: o, Key: "K\x1b[2J", Value: "a\nb\u009bc\xff\u202e", What: "x"}, "web.microvm:3: K?[2J=a?b?c??: x"},
	} {
		if got := c.p.Error(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	long := Problem{Origin: o, Key: "K", Value: strings.Repeat("ä", 500), What: "x"}.Error()
	if len(long) > MaxShown+60 || !strings.Contains(long, Elided) || strings.Contains(long, "�") {
		t.Errorf("a long value is shown as %q", long)
	}
}

func TestList(t *testing.T) {
	var l List
	if l.Err() != nil || l.HasErrors() {
		t.Error("an empty list is an error")
	}
	l.Add(Problem{Origin: Origin{File: "b", Line: 1}, Severity: Note, What: "n"})
	if l.Err() != nil {
		t.Error("a note is an error")
	}
	l.Errorf(Origin{File: "b", Line: 2}, "", "", "", "second")
	l.Errorf(Origin{File: "a", Line: 9}, "", "", "", "first")
	l.Errorf(Origin{File: "a", Line: 9}, "", "", "", "first")
	if got, want := l.Err().Error(), "a:9: first\nb:1: note: n\nb:2: second"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestNearest(t *testing.T) {
	keys := []string{"Memory", "VCPU", "Kernel", "KernelCommandLine", "LoadCredential"}
	for word, want := range map[string]string{
		"Memroy": "Memory", "memory": "Memory", "Kernal": "Kernel", "KernelCmdLine": "KernelCommandLine", "Loadcredentials": "LoadCredential",
		"VPCU": "VCPU", "Foo": "", "X": "", "": "", "Banana": "",
	} {
		if got := Nearest(word, keys); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", word, got, want)
		}
	}
}

func TestElide(t *testing.T) {
	for in, want := range map[string]string{"NAME:secret": "NAME:…", "secret": "…", "a:b:c": "a:…"} {
		if got := Elide(in, ":"); got != want {
			t.Errorf("Elide(%q) = %q, want %q", in, got, want)
		}
	}
}
