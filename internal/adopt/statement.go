package adopt

import (
	"github.com/ampoule-vm/ampoule/internal/microvmnix"
)

// statements adds what the script does before the hypervisor. microvm.nix's own is
// what Ampoule does too, or has no need of; the check says which. The user's is
// nothing that a file of keys can say.
func (s *sheet) statements() {
	script := s.runner.Script
	for _, st := range script.Statements {
		set := Setting{Key: statementKey(st.Line, st.Last), Value: string(st.Kind), File: s.file, Line: st.Line, Shown: microvmnix.Shown(st.Text)}
		switch st.Kind {
		case microvmnix.Start:
			continue
		case microvmnix.Graphics:
			set.Key, set.Value = "graphics", "yes"
		case microvmnix.MakeVolume:
			set.Key = "volume[" + st.Volume.Image + "]"
			set.Value = volume(st.Volume)
		case microvmnix.Arguments:
			if script.RuntimeArgs != nil {
				set.Value = "the output of " + microvmnix.Shown(script.RuntimeArgs.Command)
			}
		}
		s.settings = append(s.settings, set)
	}
}
