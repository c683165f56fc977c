package fake

import (
	"strconv"
	"strings"
	"time"
)

// step is one of the guest's script.
type step struct {
	verb, argument string
	duration       time.Duration
	number         int
}

// parseScript reads the steps of one section; see the package's comment. Without
// a script the guest says a few lines.
func parseScript(script string, section int) []step {
	if script == "" {
		return []step{{verb: "say", argument: "Run /init as init process"}, {verb: "say", argument: "Welcome to the guest!"}}
	}
	sections := strings.Split(script, ";")
	var steps []step
	for text := range strings.SplitSeq(sections[min(section, len(sections)-1)], ",") {
		if text != "" {
			steps = append(steps, parseStep(text))
		}
	}
	return steps
}

func parseStep(text string) step {
	verb, argument, has := strings.Cut(text, ":")
	s := step{verb: verb, argument: unescape(argument)}
	var err error
	switch verb {
	case "say", "notify", "panic", "vmm":
		if !has {
			misused(verb + " needs an argument")
		}
	case "wait":
		s.duration, err = time.ParseDuration(s.argument)
	case "crash", "signal":
		s.number, err = strconv.Atoi(s.argument)
	case "echo-secret-digest", "echo-input", "ignore-power", "heed-power", "take-memory", "reboot", "poweroff", "halt", "hang", "triple-fault", "vcpu-error":
		if has {
			misused(verb + " takes no argument")
		}
	default:
		misused("there is no step " + verb)
	}
	if err != nil {
		misused("wrong argument: " + text)
	}
	return s
}
