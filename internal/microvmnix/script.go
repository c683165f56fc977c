package microvmnix

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"

	"mvdan.cc/sh/v3/syntax"

	"github.com/ampoule-vm/ampoule/internal/diag"
)

// maxScript is the longest script that is read, in bytes. Generated ones have a few
// KiB; the parser keeps a tree of all of it in memory.
const maxScript = 1 << 20

// Script is a run script, bin/microvm-run of a runner, in pieces.
type Script struct {
	// File is the path that problems name.
	File string
	// Shell is the interpreter of the first line, with its arguments; empty where
	// the first line names none.
	Shell string
	// Statements are all of the script's, in order, that the parser got to.
	Statements []Statement
	// Exec is the command that becomes the hypervisor, nil where there is none.
	Exec *Exec
	// RuntimeArgs is the script whose words are appended to it, nil where there is
	// none.
	RuntimeArgs *RuntimeArgs
	// Credentials are those that the script reads, in its order, each name once.
	Credentials []Credential
	// Make says whose text it is.
	Make Make
	// Edits are the statements, by their lines, that no option of microvm.nix could
	// have put where they are; of a Make other than Generated and Customised.
	Edits []Edit
}

// Make says whose text a script is.
type Make string

// The makes.
const (
	// Generated: nothing but microvm.nix's own template, filled in.
	Generated Make = "generated"
	// Customised: with text of the user's where the template has room for it,
	// microvm.preStart and microvm.extraArgsScript.
	Customised Make = "customised"
	// Foreign: no script of microvm.nix's, or one that somebody has changed.
	Foreign Make = "foreign"
)

// Edit is a place in a script that microvm.nix does not write so.
type Edit struct {
	Line int
	What string
}

// Kind is what a statement is there for.
type Kind string

// The kinds of statements.
const (
	// Set are the shell's options.
	Set Kind = "set"
	// PreStart is text of the user's.
	PreStart Kind = "prestart"
	// Setup is text of one hypervisor's template, such as HOME for kvmtool.
	Setup Kind = "setup"
	// SocketCleanup removes, or moves away, sockets of an earlier run.
	SocketCleanup Kind = "socket cleanup"
	// NotifyBridge hands the guest's readiness on to the service manager.
	NotifyBridge Kind = "notify bridge"
	// Graphics starts and waits for a graphics process.
	Graphics Kind = "graphics"
	// VolumePath is $PATH for the tools that make volumes.
	VolumePath Kind = "volume path"
	// MakeVolume makes a missing volume.
	MakeVolume Kind = "volume"
	// MacVTapDescriptor opens a queue of a macvtap.
	MacVTapDescriptor Kind = "macvtap descriptor"
	// Arguments sets runtime_args.
	Arguments Kind = "runtime_args"
	// Start is the command that becomes the hypervisor.
	Start Kind = "exec"
)

// Statement is a command of a script, however deep.
type Statement struct {
	Kind Kind
	// Line and Last are its first and its last line.
	Line, Last int
	// Text is the statement as it is written.
	Text string
	// Volume and Descriptor are there for these kinds, Paths are those that a
	// SocketCleanup removes.
	Volume     *Volume
	Descriptor *Descriptor
	Paths      []string
}

// Volume is what a script makes where it is missing.
type Volume struct {
	// Image is the path as written; a relative one lies in the VM's state directory.
	Image string
	// Size is in MiB.
	Size int64
	// FSType is what mkfs makes, Label its name, and Args other arguments of mkfs.
	FSType, Label string
	Args          []string
}

// Descriptor is a queue of a macvtap that is open under this number.
type Descriptor struct {
	Number    int
	Interface string
}

// Exec is the command that becomes the hypervisor.
type Exec struct {
	Line int
	// Name is what ps shows for it (exec -a); empty for the program's own.
	Name string
	// Program and Args are its words, $runtime_args not among them.
	Program Word
	Args    []Word
	// RuntimeArgs: what runtime_args holds is appended.
	RuntimeArgs bool
}

// Word is a word of a command, its quotes undone.
type Word struct {
	Text string
	Line int
	// Open: what it comes to is known only when the script runs, and Text is as
	// written.
	Open bool
	// Maybe are the texts that an open word may come to by what the script sets its
	// variables to, [Unknown] where that does not say.
	Maybe []string
}

// Problem is that of a script with an open word.
func (w Word) Problem(file string) diag.Problem {
	return diag.Problem{
		Origin: diag.Origin{File: file, Line: w.Line}, What: "what this word of the command line comes to is known only when the script runs: " + Shown(w.Text),
		Accepted: "words without $, ` and patterns, but for ${runtime_args:-}",
	}
}

// Unknown stands in a text for what is known only when the script runs.
const Unknown = string(unknown)

// RuntimeArgs is a program whose output is split into words.
type RuntimeArgs struct {
	Line int
	// Command is as it is written; of what microvm.nix writes, the path of a program.
	Command string
}

// ParseScript reads a run script. The problems name what is not understood, by its
// line; the script is never nil.
func ParseScript(file string, text []byte) (*Script, []diag.Problem) {
	s := &Script{File: file, Make: Foreign}
	r := &reader{script: s, text: text, assigned: map[string]assignment{}, open: map[int]*syntax.Word{}}
	if what := unreadable(text); what != "" {
		r.problem(0, what, "a shell script, such as microvm.nix writes as bin/microvm-run")
		return s, r.problems
	}
	if first, _, _ := strings.Cut(string(text), "\n"); strings.HasPrefix(first, "#!") {
		s.Shell = strings.TrimSpace(first[2:])
	}
	stmts := r.parse()
	r.findExec(stmts)
	for _, stmt := range stmts {
		s.Statements = append(s.Statements, r.statement(stmt))
	}
	r.settle()
	c := newCredentials(stmts)
	s.Credentials = c.read(stmts, text)
	for i, w := range r.open {
		s.Exec.Args[i].Maybe = c.texts(w)
	}
	s.Make, s.Edits = s.make()
	return s, r.problems
}

// unreadable says why a text is no script.
func unreadable(text []byte) string {
	switch {
	case len(text) > maxScript:
		return fmt.Sprintf("longer than %d bytes", maxScript)
	case len(bytes.TrimSpace(text)) == 0:
		return "empty"
	case bytes.IndexByte(text, 0) >= 0 || bytes.HasPrefix(text, []byte("\x7fELF")):
		return "a binary file, and no script"
	case !utf8.Valid(text):
		return "not UTF-8"
	}
	return ""
}

// reader is the state of ParseScript.
type reader struct {
	script   *Script
	text     []byte
	problems []diag.Problem
	// exec is the statement that becomes the hypervisor.
	exec *syntax.Stmt
	// open are the words of the command line, by their numbers, that are.
	open map[int]*syntax.Word
	// assigned are variables with their values as written.
	assigned map[string]assignment
}

type assignment struct {
	line int
	word *syntax.Word
}

func (r *reader) problem(line int, what, accepted string) {
	r.problems = append(r.problems, diag.Problem{Origin: diag.Origin{File: r.script.File, Line: line}, What: what, Accepted: accepted})
}

// shown is a piece of the script for a message. A credential in clear may stand in
// any word: of those that can have one, only the name is shown.
func (r *reader) shown(node syntax.Node) string { return Shown(r.source(node)) }

func (r *reader) source(node syntax.Node) string {
	from, to := int(node.Pos().Offset()), int(node.End().Offset())
	if from > len(r.text) || to > len(r.text) || from > to {
		return ""
	}
	return string(r.text[from:to])
}

// Shown makes a piece of a script or of a command line fit for a message: on one
// line, and without the value of a credential that stands in it.
func Shown(text string) string {
	text = inClear().ReplaceAllString(strings.Join(strings.Fields(text), " "), "${1}"+diag.Elided)
	return oemStrings().ReplaceAllStringFunc(text, func(list string) string { return oemValue().ReplaceAllString(list, "${1}="+diag.Elided) })
}

// pattern compiles an expression when it is first used: most runs of the program never
// see a script.
func pattern(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

// oemStrings is such a list, which is where people put secrets by other names too,
// and oemValue the value of one.
var (
	oemStrings = pattern(`oem_strings=\[[^\]]*`)
	oemValue   = pattern(`([\[,][^=,\]]+)=[^,\]]*`)
)

// inClear finds a credential with its value; vmm.notify_socket is an address. What
// follows belongs to the value up to a separator that it cannot hold unquoted.
var inClear = pattern(`(io\.systemd\.credential(?:\.binary)?:[^=,\]'"\s]+=|opt/io\.systemd\.credentials/[^,'"\s]+,string=|systemd\.set_credential(?:_binary)?=[^:\s'"]+:|\bsecret,(?:[^\s'"]*,)?data=)[^,\]'"]*`)

// parse gives all statements up to the first that is no shell.
func (r *reader) parse() (stmts []*syntax.Stmt) {
	parser := syntax.NewParser(syntax.Variant(syntax.LangBash))
	for stmt, err := range parser.StmtsSeq(bytes.NewReader(r.text)) {
		if err != nil {
			line := 0
			var at syntax.ParseError
			what := "not a command of a shell"
			if errors.As(err, &at) {
				line = int(at.Pos.Line())
				what = "the shell's syntax: " + diag.Printable(Shown(at.Text), diag.MaxShown)
			}
			r.problem(line, what, "what is in front of it was read")
			break
		}
		stmts = append(stmts, stmt)
	}
	return stmts
}

// findExec takes the last exec with a program: those without one open descriptors.
func (r *reader) findExec(stmts []*syntax.Stmt) {
	for _, stmt := range stmts {
		if call, ok := stmt.Cmd.(*syntax.CallExpr); ok && len(stmt.Redirs) == 0 && len(call.Args) > 1 && call.Args[0].Lit() == "exec" {
			r.exec = stmt
		}
	}
	if r.exec == nil {
		r.problem(0, "no line starts a hypervisor", "a last line with exec, the program and its words")
	}
}

// settle reads what refers to what stands elsewhere in the script: which paths are
// sockets is known from the command line.
func (r *reader) settle() {
	s := r.script
	if s.Exec != nil && s.Exec.RuntimeArgs && s.RuntimeArgs == nil {
		if _, ok := r.assigned["runtime_args"]; !ok {
			s.Exec.RuntimeArgs = false
		}
	}
	sockets := s.sockets()
	for i := range s.Statements {
		st := &s.Statements[i]
		if st.Kind != SocketCleanup {
			continue
		}
		for _, p := range st.Paths {
			if !sockets[strings.TrimSuffix(p, ".old")] {
				st.Kind, st.Paths = PreStart, nil
				break
			}
		}
	}
	r.volumePaths()
}

// volumePaths: $PATH belongs to the volume behind it.
func (r *reader) volumePaths() {
	all := r.script.Statements
	for i := range all {
		if all[i].Kind == VolumePath && (i+1 == len(all) || all[i+1].Kind != MakeVolume && all[i+1].Kind != VolumePath) {
			all[i].Kind = PreStart
		}
	}
}

// sockets are the paths on the command line that a hypervisor makes or connects,
// and those that microvm.nix takes for granted.
func (s *Script) sockets() map[string]bool {
	out := map[string]bool{"notify.vsock": true, "notify.vsock_8888": true, "notify.vsock_*": true}
	if s.Exec == nil {
		return out
	}
	for i, w := range s.Exec.Args {
		if i > 0 && (s.Exec.Args[i-1].Text == "--api-socket" || s.Exec.Args[i-1].Text == "--api-sock" || s.Exec.Args[i-1].Text == "-s") {
			out[w.Text] = true
		}
		for part := range strings.SplitSeq(w.Text, ",") {
			if p, ok := strings.CutPrefix(part, "socket="); ok {
				out[p], out[p+"_8888"] = true, true
			}
		}
	}
	return out
}

// make says whose text the script is: the template has an order, and room for the
// user's text in one place.
func (s *Script) make() (Make, []Edit) {
	var edits []Edit
	edit := func(line int, what string) { edits = append(edits, Edit{Line: line, What: what}) }
	program, dashE := s.Shell, false
	if p, ok := strings.CutSuffix(program, " -e"); ok {
		program, dashE = p, true // before November 2024
	}
	if base := path.Base(program); program == "" || base != "bash" && base != "sh" {
		edit(1, "the first line names no shell as microvm.nix does")
	}
	custom, owned, duplicates := false, false, s.repeated()
	for i, st := range s.Statements {
		switch st.Kind {
		case Set:
			if i > 0 {
				custom = true // the user's, where the template has the first
			}
		case PreStart:
			custom = true
			if owned {
				edit(st.Line, "a command behind those that microvm.nix writes last")
			}
		case Start:
			if i != len(s.Statements)-1 {
				edit(st.Line, "the command that becomes the hypervisor is not the last")
			}
		case SocketCleanup:
			// crosvm's stands in front of the user's text; so may the user's own.
			owned = owned || !duplicates[st.Text] && (i > 1 || s.program() != "crosvm")
		case Setup:
		default:
			owned = true
		}
	}
	if !dashE && (len(s.Statements) == 0 || s.Statements[0].Kind != Set) {
		edit(1, "it does not begin with the shell's options")
	}
	switch {
	case s.Exec == nil:
		edit(1, "no command becomes the hypervisor")
	case s.openWords():
		edit(s.Exec.Line, "words of the hypervisor's command line are made when the script runs")
	}
	if len(edits) > 0 {
		return Foreign, edits
	}
	if custom || s.RuntimeArgs != nil {
		return Customised, nil
	}
	return Generated, nil
}

// program is the name of the hypervisor's binary.
func (s *Script) program() string {
	if s.Exec == nil {
		return ""
	}
	return path.Base(s.Exec.Program.Text)
}

// openWords: microvm.nix itself leaves a word open for kvmtool's macvtap alone.
func (s *Script) openWords() bool {
	for _, w := range append([]Word{s.Exec.Program}, s.Exec.Args...) {
		if w.Open && !(s.program() == "lkvm" && strings.Contains(w.Text, "/ifindex)")) {
			return true
		}
	}
	return false
}

// repeated are texts of statements that stand there again further down.
func (s *Script) repeated() map[string]bool {
	count, out := map[string]int{}, map[string]bool{}
	for _, st := range s.Statements {
		count[st.Text]++
	}
	for text, n := range count {
		if n > 1 {
			out[text] = true
		}
	}
	return out
}
