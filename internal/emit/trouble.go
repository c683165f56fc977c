package emit

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/layer"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
	"github.com/ampoule-vm/ampoule/internal/version"
)

// FailingSource is what a unit is made from that cannot start, but says why.
type FailingSource struct {
	// Name is the VM's, Main the absolute path of its file, Program that of
	// ampoule.
	Name, Main, Program string
	Problems            diag.List
	// Resolved, where there is one, gives what to do on failure.
	Resolved *layer.Resolved
	// StopTimeout is for a VM that runs already and whose unit was lost.
	StopTimeout plan.Milliseconds
}

// Failing writes a service that fails at its start with the mistakes of the
// VM's files, one line each, and shows the first where units are listed.
func Failing(s FailingSource) ([]byte, error) {
	unit := []unitfile.Entry{
		entry("", "Description", describe(s.Name, "cannot start: "+headline(s.Problems))),
		entry("", "Documentation", "man:ampoule-generator(8) man:ampoule.microvm(5)"),
	}
	if s.Main == legible(s.Main) && strings.TrimSpace(s.Main) == s.Main {
		unit = append(unit, entry("", "SourcePath", percent(s.Main)))
	}
	if s.Resolved != nil {
		unit = append(unit, s.onFailure()...)
	}
	service := []unitfile.Entry{
		entry("", "Type", "oneshot"),
		entry("", "ExecStart", programLine(s.Program, refuse)),
		entry("", "SyslogIdentifier", percent(strings.TrimSpace(legible("microvm@"+s.Name)))),
		entry("", "Slice", "machine.slice"),
		entry("", "DynamicUser", "yes"),
		entry("", "User", userOf(s.Name)),
		entry("for a VM that runs already", "KillMode", "mixed"),
		entry("", "TimeoutStopSec", stopSeconds(s.StopTimeout)),
		entry("", "SetCredential", rule.ProblemsName+":"+unitfile.EscapeValue(lines(s.Problems))),
	}
	return unitfile.Format([]unitfile.Block{
		{Comment: fmt.Sprintf("Made by ampoule %s, since the files of this VM have mistakes.", version.Version)},
		{Name: "Unit", Entries: unit}, {Name: "Service", Entries: service},
	})
}

// refuse ends a start with what stands in the unit.
const refuse = "unit refuse --problems=%d/" + rule.ProblemsName

// onFailure keeps what the administrator wants to happen when a unit fails, if
// there is no mistake in it.
func (s FailingSource) onFailure() []unitfile.Entry {
	var out []unitfile.Entry
	for _, key := range []string{"OnFailure", "OnFailureJobMode"} {
		for _, e := range s.Resolved.Group("Unit", key).Effective() {
			if !refused(s.Problems, e.Origin) {
				out = append(out, entry(e.Origin.String(), e.Key, e.Value))
			}
		}
	}
	return out
}

func refused(problems diag.List, at diag.Origin) bool {
	for _, p := range problems {
		if p.Severity == diag.Error && p.Origin == at {
			return true
		}
	}
	return false
}

// Fate is what became of the files of a VM that is running.
type Fate int

// The fates.
const (
	// Broken: they have mistakes. The VM may start again after a crash.
	Broken Fate = iota
	// Gone: there are none, or they are masked. The VM does not start again.
	Gone
)

// The words by which the description of a Kept unit tells its fate, behind the
// name of the VM and a colon.
const (
	KeptWords = "running as before its files had mistakes"
	GoneWords = "running, not declared any more"
)

// runArguments are those of the ExecStart= that Unit writes, up to the digest.
const runArguments = "run --plan=%d/" + rule.PlanName + " --digest="

// Kept makes the last good unit of a VM, as Unit wrote it, one that stops as it
// would have stopped, and starts again only as fate allows.
func Kept(last []byte, name, program string, fate Fate, problems diag.List) ([]byte, error) {
	at := afterLast(last, "\n[Service]\n")
	if at < 0 {
		return nil, fmt.Errorf("the last good unit of %s has no [Service]", name)
	}
	// Before all other ExecStartPre=, of which one may have effects; behind the
	// line that clears them, if the user has one.
	at = max(at, afterLast(last, "\nExecStartPre=\n"))
	state, pre := GoneWords, refuse
	bottom := []unitfile.Entry{entry("", "SetCredential", rule.ProblemsName+":"+unitfile.EscapeValue(lines(problems)))}
	switch digest, own := startOf(last); {
	case fate == Gone:
		bottom = append(bottom, entry("", "Restart", "no"))
	case own:
		state, pre = KeptWords, refuse+" --unless-crashed"
		bottom = append(bottom, stopPost(program))
	default:
		// The main process refuses, not one before it: RestartPreventExitStatus=
		// does not look at those, and the service would be tried again at once.
		state, pre = KeptWords, ""
		bottom = append(bottom, stopPost(program), entry("after a crash as ever, and otherwise with words", "ExecStart", ""),
			entry("", "ExecStart", programLine(program, "unit resume --problems=%d/"+rule.ProblemsName+" --plan=%d/"+rule.PlanName+" --digest="+digest)))
	}
	var head []byte
	var err error
	if pre != "" {
		head, err = unitfile.Format([]unitfile.Block{{Name: "Service", Entries: []unitfile.Entry{
			entry("nothing starts with files that are not in order", "ExecStartPre", programLine(program, pre)),
		}}})
		if err != nil {
			return nil, err
		}
	}
	unit := []unitfile.Entry{entry("", "Description", describe(name, state+": "+headline(problems)))}
	if fate == Gone {
		unit = append(unit, entry("it would want a daemon-reload for ever", "SourcePath", ""))
	}
	tail, err := unitfile.Format([]unitfile.Block{
		{Comment: "What is above is the last good unit of a VM that is running."},
		{Name: "Unit", Entries: unit},
		{Name: "Service", Entries: bottom},
	})
	if err != nil {
		return nil, err
	}
	return bytes.Join([][]byte{last[:at], head, last[at:], []byte("\n"), tail}, nil), nil
}

// stopPost leaves behind whether the VM has crashed.
func stopPost(program string) unitfile.Entry {
	return entry("tells a crash from a stop", "ExecStopPost", "-"+programLine(program, "unit ended"))
}

// startOf returns the digest in the ExecStart= of a unit that Unit wrote, and
// whether a command of the user's own stands in its place.
func startOf(unit []byte) (digest string, own bool) {
	const key = "\nExecStart="
	_, line, _ := bytes.Cut(unit, []byte(key))
	line, rest, _ := bytes.Cut(line, []byte("\n"))
	_, text, ok := bytes.Cut(line, []byte(" "+runArguments))
	return string(text), !ok || bytes.Contains(append([]byte("\n"), rest...), []byte(key))
}

// afterLast is where the last of these words ends, or -1.
func afterLast(text []byte, words string) int {
	i := bytes.LastIndex(text, []byte(words))
	if i < 0 {
		return -1
	}
	return i + len(words)
}

// maxHeadline keeps a description on a line of a terminal, more or less.
const maxHeadline = 300

// headline is the first mistake, and how many others there are.
func headline(problems diag.List) string {
	first, others := "", -1
	for _, p := range problems {
		if p.Severity == diag.Error {
			if others++; first == "" {
				first = p.Error()
			}
		}
	}
	if len(first) > maxHeadline {
		first = strings.ToValidUTF8(first[:maxHeadline], "") + diag.Elided
	}
	switch {
	case others == 1:
		first += " (and one more)"
	case others > 1:
		first += fmt.Sprintf(" (and %d more)", others)
	}
	return first
}

// describe is the description of a VM in trouble.
func describe(name, state string) string {
	return percent(oneLine("microVM " + name + ": " + state))
}

// oneLine is fit for a line of a unit: no control characters, no blanks or
// backslashes at the end.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	return strings.TrimRight(strings.ToValidUTF8(s, "?"), " \\")
}

// maxLines keeps a unit small, whatever its files hold.
const maxLines = 200

// lines are the errors, as the journal will have them.
func lines(problems diag.List) string {
	var b strings.Builder
	n := 0
	for _, p := range problems {
		if p.Severity != diag.Error {
			continue
		}
		if n++; n <= maxLines {
			b.WriteString(p.Error() + "\n")
		}
	}
	if n > maxLines {
		fmt.Fprintf(&b, "and %d more\n", n-maxLines)
	}
	return b.String()
}
