package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

const (
	// systemDir is where PID 1 keeps what it received, from whatever channel.
	systemDir = "/run/credentials/@system"
	// loadFile is where the loading service leaves its lines for the report.
	loadFile = "/run/ampoule-load"
	// loadEnd is the last of them; without it the service did not finish.
	loadEnd = "end"
)

// digest returns one line "KIND BYTES SHA256 NAME" for each file of a directory,
// sorted by name. The name comes last because it may hold blanks.
func digest(kind, dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("listing credentials: %w", err)
	}
	var lines []string
	for _, entry := range entries {
		f, err := os.Open(filepath.Join(dir, entry.Name()))
		if err != nil {
			return nil, fmt.Errorf("opening a credential: %w", err)
		}
		sum := sha256.New()
		size, err := io.Copy(sum, f)
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", f.Name(), err)
		}
		lines = append(lines, fmt.Sprintf("%s %d %x %s", kind, size, sum.Sum(nil), entry.Name()))
	}
	return lines, nil
}

// load prints what this service got. Its standard output is loadFile.
func load() error {
	var lines []string
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		var err error
		if lines, err = digest("load", dir); err != nil {
			return err
		}
	}
	_, err := fmt.Println(strings.Join(append(lines, loadEnd), "\n"))
	return err
}

// generate writes a LoadCredential= line into the loading service for every
// credential that PID 1 received, because systemd 252 has no ImportCredential=,
// and carries out the word ignore-power, which logind must find when it starts.
func generate(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("no output directory")
	}
	entries, err := os.ReadDir(systemDir)
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("listing credentials: %w", err)
	}
	unit := "[Service]\n"
	for _, entry := range entries {
		unit += "LoadCredential=" + strings.NewReplacer(`\`, `\\`, `%`, `%%`).Replace(entry.Name()) + "\n"
	}
	if err := write(filepath.Join(args[0], "ampoule-load.service.d", "names.conf"), unit); err != nil {
		return err
	}
	words, err := testWords()
	if err != nil {
		return err
	}
	for _, word := range words {
		if word == "ignore-power" {
			return write("/run/systemd/logind.conf.d/ampoule-test.conf",
				"[Login]\nHandlePowerKey=ignore\nHandlePowerKeyLongPress=ignore\n")
		}
	}
	return nil
}

// write makes a file in the guest's memory, with its directory.
func write(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	return os.WriteFile(path, []byte(text), 0o644)
}
