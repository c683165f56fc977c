// Command gen writes the tables of package systemdkeys from a checkout of
// systemd with its release tags:
//
//	go run ./internal/systemdkeys/gen -systemd PATH [-head REV] [-out DIR]
//
// Which release knows which key comes from systemd's key table in each tag
// (tags.go, keytable.go, history.go); everything else is decided in rules.go.
// Nothing of systemd's text gets into the output but the names of keys.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	repo := flag.String("systemd", "", "a git checkout of systemd that has its tags")
	head := flag.String("head", "", "a revision newer than the last tag to read as well, such as main")
	out := flag.String("out", "internal/systemdkeys", "where the tables go")
	flag.Parse()
	if err := run(*repo, *head, *out); err != nil {
		fmt.Fprintf(os.Stderr, "gen: %v\n", err)
		os.Exit(1) //nolint:forbidigo // this is the main of a program
	}
}

// run reads all releases and writes all tables, or none of them.
func run(repo, head, out string) error {
	if repo == "" {
		return errors.New("the flag -systemd is missing")
	}
	releases, err := readReleases(repo, head)
	if err != nil {
		return err
	}
	facts, err := fold(releases)
	if err != nil {
		return err
	}
	keys, err := judge(facts)
	if err != nil {
		return err
	}
	files, err := render(keys, releases[len(releases)-1].version)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := replaceFile(filepath.Join(out, f.name), f.text); err != nil {
			return err
		}
	}
	return nil
}

// replaceFile puts a whole file in the place of an old one.
func replaceFile(path string, text []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".gen-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = tmp.Write(text)
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", path, err), os.Remove(tmp.Name()))
	}
	return nil
}
