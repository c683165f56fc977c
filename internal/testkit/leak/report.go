package leak

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Class is a kind of place.
type Class string

// The kinds of places, in the order of the table.
const (
	Arguments   Class = "arguments of processes"
	Environment Class = "environments of processes"
	Open        Class = "open files without a name"
	Memfd       Class = "memory files"
	File        Class = "files on disk"
	MemoryFile  Class = "files on tmpfs and ramfs"
	Name        Class = "names of files"
	Socket      Class = "names of sockets"
	Journal     Class = "journal"
	KernelLog   Class = "kernel log"
	Text        Class = "texts given"
	Core        Class = "core dumps"
	Memory      Class = "memory of processes"
)

// Classes returns all kinds in the order of the table.
func Classes() []Class {
	return []Class{Arguments, Environment, Open, Memfd, File, MemoryFile, Name, Socket, Journal, KernelLog, Text, Core, Memory}
}

// Row is one form of one secret in one place.
type Row struct {
	Class Class `json:"class"`
	// Place is a path, or a process and what of it.
	Place  string `json:"place"`
	Secret string `json:"secret"`
	// Form is how the secret is written there: "plain", "base64", "hex" …
	Form string `json:"form"`
	// Allowed says why it may be there; empty means that this is a leak.
	Allowed string `json:"allowed,omitempty"`
}

func (r Row) compare(o Row) int {
	return cmp.Or(
		cmp.Compare(slices.Index(Classes(), r.Class), slices.Index(Classes(), o.Class)),
		cmp.Compare(r.Place, o.Place), cmp.Compare(r.Secret, o.Secret),
		cmp.Compare(r.Form, o.Form), cmp.Compare(r.Allowed, o.Allowed))
}

// Skip is a place that could not be looked at.
type Skip struct {
	Class Class  `json:"class"`
	Place string `json:"place"`
	Why   string `json:"why"`
}

func (k Skip) compare(o Skip) int {
	return cmp.Or(cmp.Compare(k.Class, o.Class), cmp.Compare(k.Place, o.Place), cmp.Compare(k.Why, o.Why))
}

// Report is what a scan found.
type Report struct {
	Start time.Time `json:"start"`
	// Looked counts the places looked at by kind, Bytes what was read there.
	Looked  map[Class]int `json:"looked"`
	Bytes   int64         `json:"bytes"`
	Rows    []Row         `json:"rows,omitempty"`
	Skipped []Skip        `json:"skipped,omitempty"`
}

// Leaks returns the rows that are not allowed.
func (r Report) Leaks() []Row {
	return slices.DeleteFunc(slices.Clone(r.Rows), func(x Row) bool { return x.Allowed != "" })
}

// Found returns the rows of one kind of place, allowed or not.
func (r Report) Found(c Class) []Row {
	return slices.DeleteFunc(slices.Clone(r.Rows), func(x Row) bool { return x.Class != c })
}

// Places counts all places looked at.
func (r Report) Places() int {
	n := 0
	for _, k := range r.Looked {
		n += k
	}
	return n
}

// Table returns the report for people: a line for each kind of place, then each
// leak, each allowed place and what could not be looked at.
func (r Report) Table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprint(w, "PLACE\tLOOKED AT\tLEAKS\tALLOWED\n")
	for _, c := range Classes() {
		leaks, allowed := map[string]bool{}, map[string]bool{}
		for _, row := range r.Found(c) {
			if row.Allowed == "" {
				leaks[row.Place] = true
			} else {
				allowed[row.Place] = true
			}
		}
		if r.Looked[c] > 0 || len(leaks)+len(allowed) > 0 {
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\n", c, r.Looked[c], len(leaks), len(allowed))
		}
	}
	_ = w.Flush()
	for _, row := range r.Rows {
		if row.Allowed == "" {
			fmt.Fprintf(&b, "LEAK     %s: %s: secret %s, %s\n", row.Class, row.Place, row.Secret, row.Form)
		} else {
			fmt.Fprintf(&b, "allowed  %s: %s: secret %s, %s (%s)\n", row.Class, row.Place, row.Secret, row.Form, row.Allowed)
		}
	}
	for _, k := range r.Skipped {
		fmt.Fprintf(&b, "skipped  %s: %s: %s\n", k.Class, k.Place, k.Why)
	}
	return b.String()
}
