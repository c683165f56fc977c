// Command gen writes what follows from the table of commands and the table of
// keys, and the table of causes: manual pages, shell completions, docs/keys.md and
// docs/diagnose.md. With --check it
// writes nothing and fails where a file is not what it would write.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/ampoule-vm/ampoule/internal/cli"
	"github.com/ampoule-vm/ampoule/internal/version"
)

func main() {
	check := flag.Bool("check", false, "write nothing, fail on a difference")
	dir := flag.String("dir", ".", "the root of the repository")
	flag.Parse()
	if err := generate(*dir, *check); err != nil {
		fmt.Fprintf(os.Stderr, "gen: %v\n", err)
		os.Exit(1)
	}
}

// generate writes or checks every generated file.
func generate(dir string, check bool) error {
	files, err := Files()
	if err != nil {
		return err
	}
	var stale []string
	for _, f := range files {
		path := filepath.Join(dir, f.Path)
		old, err := os.ReadFile(path)
		if err == nil && bytes.Equal(old, f.Data) {
			continue
		}
		if check {
			stale = append(stale, f.Path)
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, f.Data, 0o644); err != nil {
			return err
		}
	}
	if len(stale) > 0 {
		return fmt.Errorf("run make gen, these files are not what the tables say: %s", strings.Join(stale, ", "))
	}
	return nil
}

// File is a generated file.
type File struct {
	Path string
	Data []byte
}

// Files returns every generated file.
func Files() ([]File, error) {
	root := cli.New(cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	root.DisableAutoGenTag = true
	files := []File{
		{"dist/man/ampoule.microvm.5", manualOfKeys()},
		{"dist/man/ampoule-generator.8", manualOfGenerator()},
		{"docs/keys.md", markdownOfKeys()},
		{"docs/diagnose.md", markdownOfCauses()},
	}
	pages, err := manuals(root)
	if err != nil {
		return nil, err
	}
	files = append(files, pages...)
	for _, c := range []struct {
		path  string
		write func(*bytes.Buffer) error
	}{
		{"dist/completions/ampoule.bash", func(b *bytes.Buffer) error { return root.GenBashCompletionV2(b, true) }},
		{"dist/completions/_ampoule", func(b *bytes.Buffer) error { return root.GenZshCompletion(b) }},
		{"dist/completions/ampoule.fish", func(b *bytes.Buffer) error { return root.GenFishCompletion(b, true) }},
	} {
		var b bytes.Buffer
		if err := c.write(&b); err != nil {
			return nil, err
		}
		files = append(files, File{c.path, b.Bytes()})
	}
	return files, nil
}

// otherPages goes on where the library ends, with the commands to see also.
const otherPages = ", \\fBampoule.microvm(5)\\fP, \\fBampoule\\-generator(8)\\fP\n"

// manuals writes a page for each command.
func manuals(root *cobra.Command) ([]File, error) {
	var files []File
	for _, cmd := range append([]*cobra.Command{root}, root.Commands()...) {
		if cmd.Hidden || cmd.Name() == "help" || cmd.Name() == "completion" {
			continue
		}
		name := strings.ReplaceAll(cmd.CommandPath(), " ", "-")
		var b bytes.Buffer
		header := &doc.GenManHeader{Title: strings.ToUpper(name), Section: "1", Source: "ampoule " + version.Version, Manual: "Ampoule"}
		if err := doc.GenMan(cmd, header, &b); err != nil {
			return nil, err
		}
		text := append(bytes.TrimRight(undated(b.Bytes()), "\n"), otherPages...)
		files = append(files, File{"dist/man/" + name + ".1", text})
	}
	return files, nil
}

// undated removes the month that the library puts into the title line: the
// same tables give the same bytes on any day.
func undated(page []byte) []byte {
	lines := strings.Split(string(page), "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".TH ") {
			f := strings.SplitN(l, `" "`, 4)
			if len(f) == 4 {
				f[2] = ""
				lines[i] = strings.Join(f, `" "`)
			}
		}
	}
	return []byte(strings.Join(lines, "\n"))
}
