package microvmnix

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// statement says what a statement of the outermost level is there for. What is
// nothing that microvm.nix writes is the user's.
func (r *reader) statement(stmt *syntax.Stmt) Statement {
	st := Statement{Kind: PreStart, Line: int(stmt.Pos().Line()), Last: int(stmt.End().Line()), Text: r.source(stmt)}
	if stmt.Negated || stmt.Coprocess || stmt.Disown {
		return st
	}
	switch cmd := stmt.Cmd.(type) {
	case *syntax.CallExpr:
		switch {
		case stmt == r.exec:
			st.Kind = Start
			r.command(cmd)
		case len(cmd.Args) == 0:
			r.assign(cmd, &st)
		default:
			r.call(stmt, cmd, &st)
		}
	case *syntax.DeclClause:
		if st.Text == "export HOME=$PWD" {
			st.Kind = Setup // kvmtool keeps its socket there
		}
	case *syntax.IfClause:
		r.branch(cmd, &st)
	case *syntax.WhileClause:
		if socketWait(cmd) {
			st.Kind = Graphics
		}
	}
	return st
}

// command reads the words of the command that becomes the hypervisor.
func (r *reader) command(call *syntax.CallExpr) {
	e := &Exec{Line: int(call.Pos().Line())}
	r.script.Exec = e
	for _, a := range call.Assigns {
		r.problem(int(a.Pos().Line()), "a variable for the hypervisor alone: "+r.shown(a), "a command without variables")
	}
	args := call.Args[1:]
	if len(args) > 2 && args[0].Lit() == "-a" {
		name, ok := evaluate(args[1])
		if !ok {
			r.problem(int(args[1].Pos().Line()), "the name that the process shall have is made when the script runs: "+r.shown(args[1]), "")
		}
		e.Name, args = name, args[2:]
	}
	for i, w := range args {
		if name := variable(w); name == "runtime_args" && i > 0 {
			e.RuntimeArgs = true
			continue
		}
		word := Word{Line: int(w.Pos().Line())}
		var ok bool
		if word.Text, ok = evaluate(w); !ok {
			word.Text, word.Open = r.source(w), true
			if i > 0 {
				r.open[len(e.Args)] = w
			}
			r.problems = append(r.problems, word.Problem(r.script.File))
		}
		if i == 0 {
			e.Program = word
		} else {
			e.Args = append(e.Args, word)
		}
	}
}

// assign reads a statement of nothing but variables.
func (r *reader) assign(call *syntax.CallExpr, st *Statement) {
	for _, a := range call.Assigns {
		if a.Name != nil {
			r.assigned[a.Name.Value] = assignment{line: int(a.Pos().Line()), word: a.Value}
		}
	}
	if len(call.Assigns) != 1 || call.Assigns[0].Name == nil || call.Assigns[0].Append || call.Assigns[0].Array != nil {
		return
	}
	a := call.Assigns[0]
	switch a.Name.Value {
	case "PATH":
		if rest, ok := strings.CutPrefix(r.source(a), "PATH=$PATH:"); ok && isSearchPath(rest) {
			st.Kind = VolumePath
		}
	case "runtime_args":
		st.Kind = Arguments
		if a.Value == nil {
			return
		}
		r.script.RuntimeArgs = &RuntimeArgs{Line: st.Line, Command: r.source(a.Value)}
		if len(a.Value.Parts) == 1 {
			if sub, ok := a.Value.Parts[0].(*syntax.CmdSubst); ok && len(sub.Stmts) == 1 {
				r.script.RuntimeArgs.Command = strings.TrimSpace(r.source(sub.Stmts[0]))
			}
		}
	}
}

// isSearchPath reports whether a text is the bin directories of packages.
func isSearchPath(text string) bool {
	for dir := range strings.SplitSeq(text, ":") {
		if !path.IsAbs(dir) || path.Base(dir) != "bin" || strings.ContainsAny(dir, "$`'\"* ") {
			return false
		}
	}
	return true
}

// call reads a command that is no exec of a program.
func (r *reader) call(stmt *syntax.Stmt, call *syntax.CallExpr, st *Statement) {
	if len(call.Assigns) > 0 {
		return
	}
	if d := descriptor(stmt, call); d != nil {
		st.Kind, st.Descriptor = MacVTapDescriptor, d
		return
	}
	args, ok := words(call.Args)
	if len(args) == 0 {
		return
	}
	name := args[0]
	switch {
	case len(stmt.Redirs) > 0:
	case stmt.Background:
		// The user's may be there too; with these words it is the template's.
		if path.Base(name) == "crosvm" && len(call.Args) > 3 && call.Args[1].Lit() == "device" && call.Args[2].Lit() == "gpu" {
			st.Kind = Graphics
		}
	case name == "set" && ok:
		if len(args) > 1 && strings.Contains(args[1], "e") && strings.HasPrefix(args[1], "-") && (len(args) == 2 || len(args) == 3 && args[2] == "pipefail") {
			st.Kind = Set
		}
	case name == "rm" && len(call.Args) > 2:
		if paths, closed := removed(call.Args[1:]); closed {
			st.Kind, st.Paths = SocketCleanup, paths // unless it turns out to be no socket
		}
	case name == "mkdir" && ok && len(args) == 3 && args[1] == "-p" && r.pivotRoot() == args[2]:
		st.Kind = Setup
	}
}

// pivotRoot is the directory that crosvm goes into.
func (r *reader) pivotRoot() string {
	call, ok := (*syntax.CallExpr)(nil), false
	if r.exec != nil {
		call, ok = r.exec.Cmd.(*syntax.CallExpr)
	}
	if !ok {
		return ""
	}
	for i, w := range call.Args {
		if w.Lit() == "--pivot-root" && i+1 < len(call.Args) {
			text, _ := evaluate(call.Args[i+1])
			return text
		}
	}
	return ""
}

// removed are the operands of rm -f. The pattern notify.vsock_* is Firecracker's.
func removed(args []*syntax.Word) ([]string, bool) {
	if args[0].Lit() != "-f" {
		return nil, false
	}
	var out []string
	for _, w := range args[1:] {
		text, ok := evaluate(w)
		if !ok {
			if text = w.Lit(); text != "notify.vsock_*" {
				return nil, false
			}
		}
		out = append(out, text)
	}
	return out, len(out) > 0
}

// descriptor reads exec 3<>/dev/tap$(< /sys/class/net/ID/ifindex).
func descriptor(stmt *syntax.Stmt, call *syntax.CallExpr) *Descriptor {
	if len(call.Args) != 1 || call.Args[0].Lit() != "exec" || len(stmt.Redirs) != 1 {
		return nil
	}
	redir := stmt.Redirs[0]
	if redir.Op != syntax.RdrInOut || redir.N == nil || redir.Word == nil || len(redir.Word.Parts) != 2 {
		return nil
	}
	number, err := strconv.Atoi(redir.N.Value)
	lit, isLit := redir.Word.Parts[0].(*syntax.Lit)
	sub, isSub := redir.Word.Parts[1].(*syntax.CmdSubst)
	if err != nil || !isLit || !isSub || lit.Value != "/dev/tap" || len(sub.Stmts) != 1 || sub.Stmts[0].Cmd != nil || len(sub.Stmts[0].Redirs) != 1 {
		return nil
	}
	from := sub.Stmts[0].Redirs[0]
	file, ok := evaluate(from.Word)
	if from.Op != syntax.RdrIn || !ok || path.Base(file) != "ifindex" || path.Dir(path.Dir(file)) != "/sys/class/net" {
		return nil
	}
	return &Descriptor{Number: number, Interface: path.Base(path.Dir(file))}
}

// branch reads an if: the notify bridge, a volume, or the old API socket.
func (r *reader) branch(c *syntax.IfClause, st *Statement) {
	if c.Else != nil || len(c.Cond) != 1 || !simple(c.Cond[0]) {
		return
	}
	test, ok := c.Cond[0].Cmd.(*syntax.CallExpr)
	if !ok || len(test.Args) < 4 || test.Args[0].Lit() != "[" || test.Args[len(test.Args)-1].Lit() != "]" {
		return
	}
	test.Args = test.Args[:len(test.Args):len(test.Args)]
	op := test.Args[1].Lit()
	switch {
	case op == "-n" && len(test.Args) == 4 && variable(test.Args[2]) == "NOTIFY_SOCKET":
		if bridges(c.Then) {
			st.Kind = NotifyBridge
		}
	case op == "!" && len(test.Args) == 5 && test.Args[2].Lit() == "-e":
		if image, closed := evaluate(test.Args[3]); closed {
			if v := makesVolume(image, c.Then); v != nil {
				st.Kind, st.Volume = MakeVolume, v
			}
		}
	case op == "-e" && len(test.Args) == 4 && len(c.Then) == 1:
		socket, closed := evaluate(test.Args[2])
		if move, isCall := c.Then[0].Cmd.(*syntax.CallExpr); closed && isCall && simple(c.Then[0]) {
			if args, known := words(move.Args); known && slices.Equal(args, []string{"mv", socket, socket + ".old"}) {
				st.Kind, st.Paths = SocketCleanup, []string{socket}
			}
		}
	}
}

// simple reports whether a statement is a command without anything around it.
func simple(stmt *syntax.Stmt) bool {
	return !stmt.Negated && !stmt.Background && !stmt.Coprocess && !stmt.Disown && len(stmt.Redirs) == 0
}

// bridges reports whether the statements are one socat from a unix socket to that of
// the service manager.
func bridges(then []*syntax.Stmt) bool {
	if len(then) != 1 || !then[0].Background || len(then[0].Redirs) > 0 {
		return false
	}
	call, ok := then[0].Cmd.(*syntax.CallExpr)
	if !ok || len(call.Args) < 3 || path.Base(call.Args[0].Lit()) != "socat" {
		return false
	}
	from, to := call.Args[len(call.Args)-2], call.Args[len(call.Args)-1]
	listen, ok := evaluate(from)
	if !ok || !strings.HasPrefix(listen, "UNIX-LISTEN:") || len(to.Parts) != 2 {
		return false
	}
	lit, ok := to.Parts[0].(*syntax.Lit)
	return ok && lit.Value == "UNIX-SENDTO:" && variable(&syntax.Word{Parts: to.Parts[1:]}) == "NOTIFY_SOCKET"
}

// makesVolume reads the commands that make an image: touch, chattr || true, truncate
// or fallocate, mkfs. Anything else among them is not microvm.nix's.
func makesVolume(image string, then []*syntax.Stmt) *Volume {
	v := &Volume{Image: image}
	for _, stmt := range then {
		if !simple(stmt) {
			return nil
		}
		if or, ok := stmt.Cmd.(*syntax.BinaryCmd); ok {
			left, isCall := or.X.Cmd.(*syntax.CallExpr)
			if !isCall || or.Op != syntax.OrStmt || !simple(or.X) {
				return nil
			}
			if args, closed := words(left.Args); !closed || !slices.Equal(args, []string{"chattr", "+C", image}) {
				return nil
			}
			continue
		}
		call, ok := stmt.Cmd.(*syntax.CallExpr)
		if !ok || len(call.Assigns) > 0 {
			return nil
		}
		args, closed := words(call.Args)
		if !closed || len(args) < 2 || args[len(args)-1] != image || !v.step(args[0], args[1:len(args)-1]) {
			return nil
		}
	}
	if v.Size == 0 || v.FSType == "" {
		return nil
	}
	return v
}

// step takes one command with its arguments but for the image.
func (v *Volume) step(name string, args []string) bool {
	size := ""
	switch {
	case name == "touch":
		return len(args) == 0
	case name == "truncate" && len(args) == 2 && args[0] == "-s":
		size = strings.TrimSuffix(args[1], "M")
	case name == "fallocate" && len(args) == 1:
		size = strings.TrimSuffix(strings.TrimPrefix(args[0], "-l"), "MiB")
	case strings.HasPrefix(name, "mkfs."):
		v.FSType = strings.TrimPrefix(name, "mkfs.")
		if len(args) > 1 && (args[0] == "-L" || args[0] == "-n") {
			v.Label, args = args[1], args[2:]
		}
		v.Args = args
		return true
	}
	n, err := strconv.ParseInt(size, 10, 64)
	v.Size = n
	return err == nil && n > 0
}

// socketWait reads while ! [ -S SOCKET ]; do sleep .1; done.
func socketWait(c *syntax.WhileClause) bool {
	if c.Until || len(c.Cond) != 1 || !c.Cond[0].Negated || len(c.Do) != 1 {
		return false
	}
	test, ok := c.Cond[0].Cmd.(*syntax.CallExpr)
	if !ok || len(test.Args) != 4 || test.Args[0].Lit() != "[" || test.Args[1].Lit() != "-S" {
		return false
	}
	sleep, ok := c.Do[0].Cmd.(*syntax.CallExpr)
	return ok && len(sleep.Args) == 2 && sleep.Args[0].Lit() == "sleep"
}
