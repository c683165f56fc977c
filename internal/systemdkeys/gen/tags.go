package main

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/systemdkeys"
)

// release is one version of systemd and the keys that it knows.
type release struct {
	version int
	keys    map[name]entry
}

// keyTables are the files that have held systemd's key table, newest first.
var keyTables = [...]string{
	"src/core/load-fragment-gperf.gperf.in", // Jinja, since 249
	"src/core/load-fragment-gperf.gperf.m4", // m4
}

// readReleases reads every release from the oldest that the tables tell apart
// up to the newest tag, and head after it where it is newer still.
func readReleases(repo, head string) ([]release, error) {
	tags, err := git(repo, "tag", "--list", "v*")
	if err != nil {
		return nil, err
	}
	var versions []int
	for tag := range strings.Lines(string(tags)) {
		v, err := strconv.Atoi(strings.TrimPrefix(strings.TrimSpace(tag), "v"))
		if err == nil && v >= systemdkeys.Oldest {
			versions = append(versions, v)
		}
	}
	slices.Sort(versions)
	if len(versions) == 0 || versions[0] != systemdkeys.Oldest {
		return nil, fmt.Errorf("%s has no tag v%d: fetch the tags", repo, systemdkeys.Oldest)
	}
	var releases []release
	for i, v := range versions {
		if v != versions[0]+i {
			return nil, fmt.Errorf("%s has no tag v%d: fetch the tags", repo, versions[0]+i)
		}
		if releases, err = appendRelease(releases, repo, fmt.Sprintf("v%d", v), v); err != nil {
			return nil, err
		}
	}
	if head == "" {
		return releases, nil
	}
	v, err := headVersion(repo, head)
	if err != nil {
		return nil, err
	}
	if v <= versions[len(versions)-1] {
		return nil, fmt.Errorf("%s is at version %d, which is tagged already", head, v)
	}
	return appendRelease(releases, repo, head, v)
}

func appendRelease(releases []release, repo, rev string, version int) ([]release, error) {
	var errs error
	for _, path := range keyTables {
		text, err := git(repo, "show", rev+":"+path)
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		keys, err := parseKeyTable(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s:%s: %w", rev, path, err)
		}
		return append(releases, release{version, keys}), nil
	}
	return nil, errs
}

// headVersion reads the version that a revision between two releases will
// have: its file meson.version says "262~devel".
func headVersion(repo, rev string) (int, error) {
	text, err := git(repo, "show", rev+":meson.version")
	if err != nil {
		return 0, err
	}
	digits := regexp.MustCompile(`^[0-9]+`).FindString(string(text))
	v, err := strconv.Atoi(digits)
	if err != nil {
		return 0, fmt.Errorf("%s:meson.version does not begin with a number", rev)
	}
	return v, nil
}

func git(repo string, args ...string) ([]byte, error) {
	cmd := exec.Command("git", append([]string{"-C", repo}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}
