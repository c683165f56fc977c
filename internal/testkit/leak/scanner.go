package leak

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Logger is what the scanner tells about its progress; *testing.T is one.
type Logger interface {
	Logf(format string, args ...any)
}

// Scanner looks for a set of secrets and collects what it finds. Its methods
// may be called from several goroutines.
type Scanner struct {
	log     Logger
	matcher *matcher
	start   time.Time

	mu      sync.Mutex
	allowed []allowance
	rows    map[Row]bool
	skipped map[Skip]bool
	looked  map[Class]int
	bytes   int64
}

// allowance is a path at or below which a secret may be found, and why.
type allowance struct{ path, why string }

// New prepares a scan for secrets, given by name. Files that were neither
// written nor made after this moment are passed over, except in memory file
// systems. It refuses a secret that is too short, or of too few different
// bytes, to be told from chance.
func New(log Logger, secrets map[string][]byte) (*Scanner, error) {
	var patterns []pattern
	for _, name := range slices.Sorted(maps.Keys(secrets)) {
		p, err := patternsOf(name, secrets[name])
		if err != nil {
			return nil, err
		}
		patterns = append(patterns, p...)
	}
	if len(patterns) == 0 {
		return nil, fmt.Errorf("there is no secret to look for")
	}
	return &Scanner{
		log:     log,
		matcher: newMatcher(patterns),
		// File times have the resolution of the kernel's tick, or of a second.
		start:   time.Now().Add(-time.Second),
		rows:    map[Row]bool{},
		skipped: map[Skip]bool{},
		looked:  map[Class]int{},
	}, nil
}

// Allow says that secrets may be in a file, or below a directory, and why. What
// is found there is in the report, but no leak: a source that is not found is
// a sign that the scan is blind.
func (s *Scanner) Allow(path, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.allowed = append(s.allowed, allowance{filepath.Clean(path), why})
}

// allowance returns why a path may hold secrets, or "".
func (s *Scanner) allowance(path string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.allowed {
		if path == a.path || strings.HasPrefix(path, strings.TrimSuffix(a.path, "/")+"/") {
			return a.why
		}
	}
	return ""
}

// Scan looks at the whole machine and returns everything found so far, by this
// and the other methods.
func (s *Scanner) Scan() Report {
	began := time.Now()
	seen := inodes{}
	s.scanFiles(seen)
	s.scanProcesses(seen)
	s.scanSockets()
	s.scanJournal()
	s.scanKernelLog()
	r := s.Report()
	s.log.Logf("leak scan: %d places, %d MB in %s, %d leaks", r.Places(), r.Bytes>>20, time.Since(began).Round(time.Millisecond), len(r.Leaks()))
	return r
}

// ScanBytes looks at a text or other bytes that the caller has, such as the
// log of a program. The name says what they are.
func (s *Scanner) ScanBytes(name string, data []byte) Report {
	f := s.find(Text, name, "")
	s.matcher.scan(data, f.hit)
	f.done(int64(len(data)))
	return s.Report()
}

// ScanReader is [Scanner.ScanBytes] for what is too large to hold.
func (s *Scanner) ScanReader(name string, r io.Reader) error {
	return s.stream(Text, name, "", r, s.matcher.newBuffer())
}

// ScanFile looks at one file, whatever its age.
func (s *Scanner) ScanFile(path string) error { return s.scanWhole(File, path) }

// ScanCore looks at a core dump.
func (s *Scanner) ScanCore(path string) error { return s.scanWhole(Core, path) }

func (s *Scanner) scanWhole(class Class, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.stream(class, path, s.allowance(path), newSparseReader(f), s.matcher.newBuffer())
}

// stream looks at all that a reader gives.
func (s *Scanner) stream(class Class, place, allowed string, r io.Reader, buf []byte) error {
	return s.find(class, place, allowed).stream(r, buf)
}

// finding collects the hits in one place.
type finding struct {
	s       *Scanner
	class   Class
	place   string
	allowed string
	hits    map[int]bool
	// uncounted is set where the same place is looked at again and again.
	uncounted bool
}

func (s *Scanner) find(class Class, place, allowed string) *finding {
	return &finding{s: s, class: class, place: place, allowed: allowed}
}

// stream looks at all that a reader gives and records it.
func (f *finding) stream(r io.Reader, buf []byte) error {
	n, err := f.s.matcher.stream(r, buf, f.hit)
	f.done(n)
	return err
}

func (f *finding) hit(i int) {
	if f.hits == nil {
		f.hits = map[int]bool{}
	}
	f.hits[i] = true
}

// done records the hits of a place of which n bytes were looked at.
func (f *finding) done(n int64) {
	s := f.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if !f.uncounted {
		s.looked[f.class]++
		s.bytes += n
	}
	for i := range f.hits {
		p := s.matcher.patterns[i]
		s.rows[Row{Class: f.class, Place: f.place, Secret: p.secret, Form: p.form, Allowed: f.allowed}] = true
	}
}

// skip records a place that could not be looked at.
func (s *Scanner) skip(class Class, place string, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skipped[Skip{Class: class, Place: place, Why: why.Error()}] = true
}

// Report returns what was found so far.
func (s *Scanner) Report() Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := Report{Start: s.start, Bytes: s.bytes, Looked: maps.Clone(s.looked)}
	r.Rows = slices.SortedFunc(maps.Keys(s.rows), Row.compare)
	r.Skipped = slices.SortedFunc(maps.Keys(s.skipped), Skip.compare)
	return r
}
