package initrd

import (
	"bytes"
	"strings"
)

// content is what is kept of a regular file: nothing, unless it can be run.
type content struct {
	elf, script bool
	interpreter string
	systemd     bool // names a library that is systemd's own
}

// libraries are those that systemd links with, and other programs do not that
// could be a first program.
func libraries() [2]string { return [2]string{"libsystemd-core", "libsystemd-shared"} }

// maxInterpreter is as much of the first line as Linux reads.
const maxInterpreter = 256

// watcher looks at the content of one file as it comes by.
type watcher struct {
	search bool   // for libraries, which takes longer
	head   []byte // at most maxInterpreter bytes
	tail   []byte // of the last piece, for what lies across two
	out    content
}

func (w *watcher) begin(executable bool) {
	w.search, w.head, w.tail, w.out = executable, w.head[:0], w.tail[:0], content{}
}

func (w *watcher) piece(p []byte) {
	if len(w.head) < maxInterpreter {
		w.head = append(w.head, p[:min(len(p), maxInterpreter-len(w.head))]...)
	}
	w.out.elf = bytes.HasPrefix(w.head, []byte("\x7fELF"))
	if !w.search || w.out.systemd || !w.out.elf && len(w.head) >= 4 {
		return
	}
	const common = "libsystemd-" // of both
	keep := len(libraries()[1]) - 1
	across := append(w.tail, p[:min(len(p), keep)]...)
	w.out.systemd = mentions(across, common) || mentions(p, common)
	w.tail = append(across[:0], across[max(0, len(across)-keep):]...)
	if len(p) > keep {
		w.tail = append(w.tail[:0], p[len(p)-keep:]...)
	}
}

func mentions(p []byte, common string) bool {
	for {
		i := bytes.Index(p, []byte(common))
		if i < 0 {
			return false
		}
		for _, l := range libraries() {
			if bytes.HasPrefix(p[i:], []byte(l)) {
				return true
			}
		}
		p = p[i+len(common):]
	}
}

func (w *watcher) end() content {
	if line, ok := bytes.CutPrefix(w.head, []byte("#!")); ok {
		w.out.script = true
		line, _, _ = bytes.Cut(line, []byte("\n"))
		if words := strings.Fields(string(line)); len(words) > 0 {
			w.out.interpreter = words[0]
		}
	}
	w.out.systemd = w.out.systemd && w.out.elf
	return w.out
}
