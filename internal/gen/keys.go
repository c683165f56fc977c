package main

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/layer"
	"github.com/ampoule-vm/ampoule/internal/source"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// merging says in words how a key merges.
func merging(row spec.Row) string {
	switch row.Merge {
	case layer.List:
		return "A list: later assignments append, an empty one clears."
	case layer.ByID:
		s := "A list by name: a later file replaces the element of the same name, an empty assignment clears the list."
		if row.Group != "" && row.Group != row.Name {
			s += " It shares the list of " + row.Group + "=."
		}
		return s
	}
	return ""
}

// manualOfKeys is ampoule.microvm(5).
func manualOfKeys() []byte {
	p := newPage("AMPOULE.MICROVM", "5", "ampoule.microvm", "the file of a microVM")
	p.section("SYNOPSIS")
	p.paragraph("NAME.microvm, NAME.microvm.d/*.conf")
	p.section("DESCRIPTION")
	for _, text := range introduction() {
		p.paragraph(text)
	}
	p.section("OPTIONS OF [MICROVM]")
	for _, row := range spec.Table() {
		text := []string{row.Help}
		if m := merging(row); m != "" {
			text = append(text, m)
		}
		if row.Default != "" {
			text = append(text, "Default: "+row.Default+".")
		}
		p.tagged(`\fB`+roff(row.Name)+`=\fR\fI`+roff(row.Form)+`\fR`, text...)
	}
	p.section("SPECIFIERS")
	for _, s := range spec.Specifiers() {
		p.item("%"+string(s.Letter), s.Help)
	}
	service(p)
	p.references("ampoule.microvm(5)", "systemd.unit(5)", "systemd.service(5)", "systemd.exec(5)", "systemd-creds(1)")
	return p.Bytes()
}

func introduction() []string {
	return []string{
		"A .microvm file has the syntax of systemd's unit files. [MicroVM] holds the keys below; [Unit], [Service] and [Install] have systemd's keys; sections and keys that begin with X- are left alone. " +
			"Everything unknown is an error.",
		"What systemd takes in silence is an error here: in all sections an unknown key, a line that is torn off, and a line that a backslash swallowed; in [MicroVM] also blanks behind the backslash that continues a line, and a comment behind a value.",
		"A VM called by NAME is the first NAME.microvm in " + strings.Join(source.SearchPath(), ", ") + ". Drop-ins are *.conf in NAME.microvm.d, in the directories of its prefixes (for a-b-c: a-b-.microvm.d and a-.microvm.d) and in microvm.d, " +
			"in all of these places. For drop-ins of one file name the directory that ranks higher wins, then the more specific name; all that are left apply in the order of their file names. A link to /dev/null masks a file. " +
			"In NAME.microvm.d any other name is an error, but for names that say that a file was set aside (.disabled, .bak, .orig, .dpkg-old and the like, README), which get a warning. " +
			"A VM called by the path of a FILE is that file and FILE.d/*.conf.",
		"Of a key's assignments the last wins, where the key is not a list. An empty assignment returns to the default.",
		"Specifiers are expanded in all values but those of SetCredential= and SetCredentialEncrypted=.",
	}
}

func markdownOfKeys() []byte {
	var b bytes.Buffer
	b.WriteString("<!-- Written by make gen from the key table; do not edit. -->\n# Keys of `[MicroVM]`\n\n")
	for _, text := range introduction() {
		b.WriteString(text + "\n\n")
	}
	for _, row := range spec.Table() {
		fmt.Fprintf(&b, "## `%s=%s`\n\n%s\n\n", row.Name, row.Form, row.Help)
		if m := merging(row); m != "" {
			b.WriteString(m + "\n\n")
		}
		if row.Default != "" {
			fmt.Fprintf(&b, "Default: %s.\n\n", row.Default)
		}
	}
	b.WriteString("# Specifiers\n\n| | |\n|---|---|\n")
	for _, s := range spec.Specifiers() {
		fmt.Fprintf(&b, "| `%%%c` | %s |\n", s.Letter, s.Help)
	}
	return b.Bytes()
}
