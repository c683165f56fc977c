// Package verify follows a VM from its files to its guest, link by link, and
// says of each whether it is whole, broken, or not observed: with what that was
// seen by and, where it is broken, with the cause and the cure.
//
// What lives here: the facts of a VM (Look gathers them, from the files, from
// the service manager, from the processes and from the sources of credentials)
// and the judgement over them (Judge, which sees nothing but facts). What must
// not: tables and JSON, what the files mean, and anything that changes the host.
// No value of a credential leaves it, nor anything made from one.
package verify

import (
	"strings"
)

// Link is one of the chain, in the order from the files to the guest.
type Link string

// The links.
const (
	// Declared: the files as they are now.
	Declared Link = "declared"
	// Loaded: what the service manager holds, and would start.
	Loaded Link = "loaded"
	// Running: the processes.
	Running Link = "running"
	// Credentials: what was delivered, against its sources.
	Credentials Link = "credentials"
	// Guest: its own word.
	Guest Link = "guest"
)

// Links are all, in their order.
func Links() []Link { return []Link{Declared, Loaded, Running, Credentials, Guest} }

// Grade says what a link is.
type Grade string

// The grades.
const (
	Whole       Grade = "whole"
	Broken      Grade = "broken"
	NotObserved Grade = "not observed"
)

// The kinds of findings, which programs may go by.
const (
	Mistakes         = "mistakes"              // the files have some
	NotDeclared      = "not-declared"          // the VM runs without a file
	Hidden           = "hidden"                // another file provides the unit
	DropInAlone      = "drop-in-alone"         // a drop-in of systemd's for a VM that is not there
	ReloadDue        = "reload-due"            // the files have changed since they were loaded
	OwnCommand       = "command-replaced"      // a drop-in of systemd's has another ExecStart=
	PlanReset        = "plan-reset"            // one has taken the plan from the unit
	CredentialReset  = "credential-replaced"   // one has taken a credential, or gives another
	Failed           = "failed"                // the service did not end well
	OldPlan          = "old-plan"              // what runs was started from another plan
	BinaryReplaced   = "hypervisor-replaced"   // the hypervisor's file is another one now
	ShareUnserved    = "share-unserved"        // nobody serves a share of the guest
	DeviceLost       = "device-lost"           // a device of the host's is not the guest's any more
	InterfaceMissing = "interface-missing"     // an interface of the VM's is not there any more
	InterfaceChanged = "interface-changed"     // it has lost its bridge, say
	FileReplaced     = "file-replaced"         // so is one that the guest or its runner was started from
	Rotated          = "source-changed"        // a credential's source has something else now
	Missing          = "source-missing"        // it cannot be read any more
	Open             = "source-open"           // more than its owner may read it
	Undelivered      = "delivery-not-recorded" // a runner did not go through ampoule boot
)

// Cure is what mends a link: a command for a shell where one does, otherwise
// what is to be written or done.
type Cure struct {
	Command string `json:"command,omitempty"`
	Line    string `json:"line,omitempty"`
}

// String is the one that is there.
func (c Cure) String() string {
	if c.Command != "" {
		return c.Command
	}
	return c.Line
}

// Finding is why a link is broken.
type Finding struct {
	Kind string `json:"kind"`
	// What names the thing and the place.
	What string `json:"what"`
	Cure Cure   `json:"cure"`
}

// State is a link with its grade.
type State struct {
	Link  Link  `json:"link"`
	Grade Grade `json:"grade"`
	// Evidence is what was seen, each as a short sentence; of a link that is not
	// observed, why not.
	Evidence []string `json:"evidence"`
	// Findings are there where the link is broken.
	Findings []Finding `json:"findings"`
}

// Chain is a VM with its links.
type Chain struct {
	Name  string  `json:"name"`
	Links []State `json:"links"`
	// Notes break nothing.
	Notes []string `json:"notes"`
}

// Broken returns the first broken link, or "".
func (c *Chain) Broken() Link {
	for _, s := range c.Links {
		if s.Grade == Broken {
			return s.Link
		}
	}
	return ""
}

// Whole reports whether every link is.
func (c *Chain) Whole() bool {
	for _, s := range c.Links {
		if s.Grade != Whole {
			return false
		}
	}
	return true
}

// judge collects what is said of one link.
type judge struct {
	state *State
	notes *[]string
}

func (j judge) saw(parts ...string) {
	if text := join(parts); text != "" {
		j.state.Evidence = append(j.state.Evidence, text)
	}
}

func (j judge) found(kind string, cure Cure, what string) {
	j.state.Grade = Broken
	j.state.Findings = append(j.state.Findings, Finding{kind, what, cure})
}

func (j judge) unseen(why string) {
	if j.state.Grade == Whole {
		j.state.Grade = NotObserved
	}
	j.saw(why)
}

func (j judge) note(text string) { *j.notes = append(*j.notes, text) }

// join leaves out what is empty.
func join(parts []string) string {
	var said []string
	for _, p := range parts {
		if p != "" {
			said = append(said, p)
		}
	}
	return strings.Join(said, ", ")
}

// Judge says what the facts of a VM come to. A link behind a broken one is
// judged by itself: what follows from the break before it is not said again.
func Judge(f *Facts) Chain {
	c := Chain{Name: f.Name, Links: make([]State, 0, len(Links())), Notes: []string{}}
	for _, link := range Links() {
		c.Links = append(c.Links, State{Link: link, Grade: Whole, Evidence: []string{}, Findings: []Finding{}})
		j := judge{&c.Links[len(c.Links)-1], &c.Notes}
		switch link {
		case Declared:
			f.declared(j)
		case Loaded:
			f.loaded(j, c.Links[0].Grade == Broken)
		case Running:
			f.running(j, c.Broken() != "")
		case Credentials:
			f.credentials(j, c.Broken() != "")
		case Guest:
			f.guest(j)
		}
	}
	return c
}
