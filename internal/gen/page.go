package main

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/version"
)

// page is a manual page that is being written.
type page struct{ bytes.Buffer }

// newPage begins a page of a section with its name and what it is about.
func newPage(title, number, name, about string) *page {
	p := &page{}
	fmt.Fprintf(p, ".TH \"%s\" \"%s\" \"\" \"ampoule %s\" \"Ampoule\"\n", title, number, version.Version)
	p.section("NAME")
	fmt.Fprintf(p, "%s \\- %s\n", roff(name), roff(about))
	return p
}

// references is what see also says, all pages of Ampoule that a reader of one
// may look for, and then those of systemd that are given, without the page itself.
func (p *page) references(itself string, more ...string) {
	p.section("SEE ALSO")
	var all []string
	for _, r := range append([]string{"ampoule(1)", "ampoule.microvm(5)", "ampoule-generator(8)"}, more...) {
		if r == itself {
			continue
		}
		name, number, _ := strings.Cut(r, "(")
		all = append(all, fmt.Sprintf(".BR %s (%s", roff(name), number))
	}
	p.WriteString(strings.Join(all, ",\n") + "\n")
}

func (p *page) section(name string) { fmt.Fprintf(p, ".SH %s\n", name) }

func (p *page) paragraph(text string) { fmt.Fprintf(p, ".PP\n%s\n", roff(text)) }

// item is a word with what it means, in one paragraph or more.
func (p *page) item(word string, text ...string) {
	p.tagged(`\fB`+roff(word)+`\fR`, text...)
}

// tagged is an item whose word is roff already.
func (p *page) tagged(word string, text ...string) {
	fmt.Fprintf(p, ".TP\n%s\n", word)
	for _, t := range text {
		fmt.Fprintf(p, "%s\n", roff(t))
	}
}

// literal is what a user types or reads, line by line.
func (p *page) literal(lines ...string) {
	p.WriteString(".PP\n.RS 4\n.nf\n")
	for _, l := range lines {
		p.WriteString(roff(l) + "\n")
	}
	p.WriteString(".fi\n.RE\n")
}

// roff escapes text for a manual page.
func roff(s string) string {
	s = strings.ReplaceAll(s, `\`, `\e`)
	s = strings.ReplaceAll(s, "-", `\-`)
	s = strings.ReplaceAll(s, "…", `...`)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}
