package leak

import (
	"fmt"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// scanJournal reads the journal since the start through journalctl: its files
// hold long fields compressed, where no walk would find them.
func (s *Scanner) scanJournal() {
	const place = "journalctl"
	program, err := exec.LookPath("journalctl")
	if err != nil {
		s.skip(Journal, place, fmt.Errorf("it is not installed"))
		return
	}
	cmd := exec.Command(program, "--all", "--output=export", "--no-pager", "--quiet", fmt.Sprintf("--since=@%d", s.start.Unix()))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		s.skip(Journal, place, err)
		return
	}
	err = s.stream(Journal, place, "", out, s.matcher.newBuffer())
	if waited := cmd.Wait(); err == nil {
		err = waited
	}
	if err != nil {
		s.skip(Journal, place, fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String())))
	}
}

// The actions of syslog(2).
const (
	syslogReadAll = 3
	syslogSize    = 10
)

// scanKernelLog reads the kernel's messages, where generators write theirs.
func (s *Scanner) scanKernelLog() {
	size, err := unix.Klogctl(syslogSize, nil)
	if err != nil {
		s.skip(KernelLog, "syslog(2)", err)
		return
	}
	buf := make([]byte, size)
	n, err := unix.Klogctl(syslogReadAll, buf)
	if err != nil {
		s.skip(KernelLog, "syslog(2)", err)
		return
	}
	f := s.find(KernelLog, "syslog(2)", "")
	s.matcher.scan(buf[:n], f.hit)
	f.done(int64(n))
}
