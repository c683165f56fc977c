// Package apply makes what runs what the files declare: it says of each VM what
// that takes (Look and Judge), and has the service manager do it (Do).
//
// It has no state of its own. What is to be done follows each time from what is
// declared, what is loaded and what runs, so that whoever is interrupted goes on
// by beginning again.
//
// What lives here: which VM is started, stopped, restarted or left alone, and the
// order of it. What must not: how two plans differ, the service manager's
// protocol, tables and JSON; and no file is written or removed.
package apply

import (
	"github.com/ampoule-vm/ampoule/internal/compare"
	"github.com/ampoule-vm/ampoule/internal/diag"
)

// Action is what is done about a VM.
type Action string

// The actions.
const (
	// Nothing: what runs is what is declared, or nothing is to run.
	Nothing Action = "nothing"
	// Reload: systemd takes the difference at daemon-reload.
	Reload  Action = "reload"
	Start   Action = "start"
	Restart Action = "restart"
	Stop    Action = "stop"
	// Leave: there is a difference, and it is not for Ampoule to do something
	// about it.
	Leave Action = "leave"
)

// The kinds of reasons for leaving a VM as it is, which programs may go by.
const (
	Mistakes  = "mistakes"    // its files have some
	Hidden    = "hidden"      // another file provides its unit
	ByHand    = "by-hand"     // no service manager runs it
	OtherUnit = "other-unit"  // a unit of another name does
	NotObeyed = "restart-off" // RestartIfChanged=no
)

// Step is what is to be done about one VM.
type Step struct {
	Name   string `json:"name"`
	Unit   string `json:"unit"`
	Action Action `json:"action"`
	// Kind says why a VM is left, else empty.
	Kind string `json:"kind"`
	// Why says it in words.
	Why string `json:"why"`
	// Reload: a daemon-reload changes something of it; beside any action.
	Reload bool `json:"reload"`
	// New and Gone: there was no unit of it, or there is to be none.
	New  bool `json:"new"`
	Gone bool `json:"gone"`
	// Changes are the differences between what runs, or is loaded where nothing
	// does, and what the files come to.
	Changes []compare.Change `json:"changes"`
	// Problems are those of the files.
	Problems diag.List `json:"problems"`
}

// Differs reports whether anything is not as it is declared.
func (s *Step) Differs() bool {
	if s.Action != Nothing || s.Reload {
		return true
	}
	for _, c := range s.Changes {
		if c.Needs != compare.Nothing {
			return true
		}
	}
	return false
}

// Effects reports whether Do does something about the VM.
func (s *Step) Effects() bool {
	return s.Reload || s.Action == Start || s.Action == Restart || s.Action == Stop
}
