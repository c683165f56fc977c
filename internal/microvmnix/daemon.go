package microvmnix

import (
	"path"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// Daemon is how virtiofsd is started for a share.
type Daemon struct {
	// File is the script that starts it, and Line where it does so.
	File string
	Line int
	// Args are its words, $OPT_RLIMIT not among them.
	Args []Word
}

// daemons reads bin/virtiofsd-run: a supervisord with a configuration that has a
// script for each share.
func (t *tree) daemons(r *Runner) {
	file := path.Join(t.dir, "bin/virtiofsd-run")
	text := t.read(file)
	if text == nil {
		return
	}
	run, problems := ParseScript("/"+file, text)
	configuration := ""
	if run.Exec != nil {
		for i, w := range run.Exec.Args {
			if w.Text == "--configuration" && i+1 < len(run.Exec.Args) {
				configuration = run.Exec.Args[i+1].Text
			}
		}
	}
	if configuration == "" {
		t.problems = append(t.problems, problems...)
		t.problem(file, 0, "it starts no supervisord with a configuration", "what microvm.nix writes as bin/virtiofsd-run")
		return
	}
	ini := t.read(strings.TrimPrefix(configuration, "/"))
	if ini == nil {
		return
	}
	commands := programs(string(ini))
	for i := range r.Shares {
		if script := commands["virtiofsd-"+r.Shares[i].Tag]; script != "" {
			r.Shares[i].Daemon = t.daemon(strings.TrimPrefix(script, "/"))
		}
	}
}

// programs reads the commands of the sections [program:NAME] of an INI file.
func programs(ini string) map[string]string {
	out, section := map[string]string{}, ""
	for line := range strings.Lines(ini) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "[program:"); ok {
			section = strings.TrimSuffix(name, "]")
			continue
		}
		if strings.HasPrefix(line, "[") {
			section = ""
		}
		if key, value, ok := strings.Cut(line, "="); ok && section != "" && strings.TrimSpace(key) == "command" {
			out[section] = strings.TrimSpace(value)
		}
	}
	return out
}

// daemon reads the script of one share.
func (t *tree) daemon(file string) *Daemon {
	text := t.read(file)
	if text == nil {
		return nil
	}
	if what := unreadable(text); what != "" {
		t.problem(file, 0, what, "a shell script")
		return nil
	}
	r := &reader{script: &Script{File: "/" + file}, text: text, assigned: map[string]assignment{}}
	stmts := r.parse()
	r.findExec(stmts)
	d := &Daemon{File: "/" + file}
	if r.exec == nil {
		t.problems = append(t.problems, r.problems...)
		return nil
	}
	call := r.exec.Cmd.(*syntax.CallExpr)
	d.Line = int(call.Pos().Line())
	for _, w := range call.Args[min(2, len(call.Args)):] {
		if variable(w) == "OPT_RLIMIT" {
			continue // so many open files as root, which Ampoule's own unit has
		}
		word := Word{Line: int(w.Pos().Line())}
		var ok bool
		if word.Text, ok = evaluate(w); !ok {
			word.Text, word.Open = r.source(w), true
		}
		// The default of microvm.virtiofsd.threadPoolSize: as many threads as processors.
		if !ok && word.Text != "`nproc`" {
			r.problem(word.Line, "what this word comes to is known only when the script runs: "+r.shown(w), "words without $, ` and patterns")
		}
		d.Args = append(d.Args, word)
	}
	t.problems = append(t.problems, r.problems...)
	return d
}
