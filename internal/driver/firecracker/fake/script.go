package fake

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// word is one of a script.
type word struct{ name, arg string }

// argument says what a word takes behind a colon.
type argument int

const (
	takesNone argument = iota
	takesText
	takesDuration
	takesNumber
	mayTakeText
)

func vocabulary() map[string]argument {
	return map[string]argument{
		"say": takesText, "print": takesText, "wait": takesDuration, "echo": takesNone,
		"notify": takesText, "echo-secret-digest": takesNone,
		"ignore-cad": takesNone, "no-keyboard": takesNone, "take-memory": takesNone,
		"reboot": takesNone, "poweroff": mayTakeText, "halt": takesNone, "panic": takesText,
		"crash": takesNumber, "kill": takesNumber,
	}
}

// parseScript returns the words for the nth start, counted from 0. The last
// section stands for all that follow.
func parseScript(s string, nth int) ([]word, error) {
	sections := strings.Split(s, ";")
	var chosen []word
	for i, section := range sections {
		words, err := parseSection(section)
		if err != nil {
			return nil, err
		}
		if i == min(nth, len(sections)-1) {
			chosen = words
		}
	}
	return chosen, nil
}

func parseSection(section string) ([]word, error) {
	var words []word
	for _, s := range strings.Split(section, ",") {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		name, arg, given := strings.Cut(s, ":")
		kind, known := vocabulary()[name]
		if !known {
			return nil, fmt.Errorf("%q is no word", name)
		}
		if given && kind == takesNone || !given && kind != takesNone && kind != mayTakeText {
			return nil, fmt.Errorf("%s takes another argument", name)
		}
		if _, err := time.ParseDuration(arg); err != nil && kind == takesDuration {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if n, err := strconv.Atoi(arg); kind == takesNumber && (err != nil || n < 0 || n > 255) {
			return nil, fmt.Errorf("%s takes a number up to 255", name)
		}
		words = append(words, word{name, arg})
	}
	return words, nil
}

func (w word) duration() time.Duration { d, _ := time.ParseDuration(w.arg); return d }

func (w word) number() int { n, _ := strconv.Atoi(w.arg); return n }

func has(words []word, name string) bool {
	return slices.ContainsFunc(words, func(w word) bool { return w.name == name })
}
