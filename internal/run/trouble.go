package run

import (
	"regexp"
	"strings"
	"sync"

	"github.com/ampoule-vm/ampoule/internal/console"
)

// troubles are what kernel and shim say on the console of a guest that does
// not boot as it was to: nobody else could tell why, and a guest without its
// credentials may go on without a word.
type troubles struct {
	mu   sync.Mutex
	said []string
}

// maxTroubles is how many of a kind are handed on in a boot: a guest could say
// them without an end.
const maxTroubles = 8

// patterns looks for troubles and hands them on.
func (t *troubles) patterns(warn func(string)) []console.Pattern {
	look := func(re *regexp.Regexp, prefix string) console.Pattern {
		return console.Pattern{Regexp: re, Times: maxTroubles, Found: func(line string) {
			what := prefix + strings.TrimSpace(re.FindStringSubmatch(line)[1])
			t.mu.Lock()
			t.said = append(t.said, what)
			t.mu.Unlock()
			warn(what)
		}}
	}
	return []console.Pattern{
		// Linux, init/initramfs.c, at the level of emergencies.
		look(regexp.MustCompile(`(?:^|\] )Initramfs unpacking failed: (.+)$`), "the guest's kernel could not unpack all of the initial RAM disk: "),
		look(regexp.MustCompile(`(?:^|\] )ampoule-init: error: (.+)$`), "ampoule-init in the guest: "),
	}
}

// text is what was said in this boot, to be put behind the message of its end.
func (t *troubles) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.said) == 0 {
		return ""
	}
	return "; before that, " + strings.Join(t.said, "; ")
}

// reset forgets the boot that ended.
func (t *troubles) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.said = nil
}
