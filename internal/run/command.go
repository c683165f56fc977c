package run

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/credential"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/secret"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// tscRate stands in a plan for the rate of the host's time stamp counter.
const tscRate = "{tsc_khz}"

// needsRate reports whether a guest must be told that rate.
func needsRate(a plan.Accelerator) bool {
	return slices.ContainsFunc(a.CommandLine, func(w string) bool { return strings.Contains(w, tscRate) })
}

// firstFD is the number of the first inherited descriptor in the child.
const firstFD = 3

// commandLine is a hypervisor's command line with all questions answered, and the
// descriptors that it names.
type commandLine struct {
	argv  []string // without the program's name
	files []*os.File
	// sealed are those of files that hold credentials; they are closed once
	// the hypervisor has read them.
	sealed []*secret.Memfd
	// from names for each word of argv the assignment behind it.
	from []string
	// requests start the guest, where it is not the command line that does. Their
	// bodies can hold credentials.
	requests []apiRequest
	bodies   []*secret.Value
	// unlocked tells that a credential's memory could not be locked and may
	// be swapped.
	unlocked bool
}

// answers are all that a command line waits for.
type answers struct {
	accelerator plan.Accelerator
	channel     *plan.Channel
	credentials []credential.Credential
	// overlay is what the credentials travel with in an initial RAM disk; it
	// is there where the channel needs it.
	overlay *overlay
	sockets
	// kernel is the VM's, opened; it is there where the plan asks for it.
	kernel *os.File
	// notify is where the guest's service manager is to say how it goes; empty
	// where nobody listens.
	notify string
	// landlock: this kernel lets a process lock itself in.
	landlock bool
	// khz measures the host's time stamp counter; it is called only where the
	// guest must be told.
	khz func() (int, error)
}

// assemble answers the questions of the plan's command line. On error nothing
// stays open that it opened.
func assemble(p *plan.Plan, a answers) (*commandLine, error) {
	c := &commandLine{}
	for _, part := range p.VM.Command {
		var err error
		switch part.Ask {
		case "":
			c.add(part.From, part.Words...)
		case plan.AskAccelerator:
			c.add(part.From, a.accelerator.Words...)
		case plan.AskControl:
			c.addFile(part, a.control, "{path}", a.apiPath)
		case plan.AskConsole:
			c.addFile(part, a.console)
		case plan.AskStdio: // it has no words
		case plan.AskEvents:
			c.addFile(part, a.events)
		case plan.AskVSock:
			c.addFile(part, a.vhost, "{cid}", strconv.FormatUint(uint64(a.cid), 10), "{path}", a.vsockPath)
		case plan.AskNetwork:
			files := a.networks[part.From]
			c.add(part.From, plan.FillNetwork(part.Words, c.inheritAll(files.taps), c.inheritAll(files.vhost))...)
		case plan.AskCommandLine:
			var line string
			if line, err = kernelLine(p, a); err == nil {
				c.add(part.From, part.Words...)
				c.add(part.From, line)
			}
		case plan.AskChannel:
			err = c.addChannel(a)
		case plan.AskInitrd:
			var path string
			if path, err = c.initrd(p, a); path != "" {
				c.add(part.From, part.Words...)
				c.add(part.From, path)
			}
		default:
			err = fmt.Errorf("the plan asks %q, which this version of Ampoule cannot answer", part.Ask)
		}
		if err != nil {
			c.closeSecrets()
			return nil, err
		}
	}
	if err := c.addRequests(p, a); err != nil {
		c.closeSecrets()
		return nil, err
	}
	if len(a.credentials) > 0 && len(c.sealed) == 0 && !c.inBody(a) {
		c.closeSecrets()
		return nil, errors.New("the plan has no place for the credentials")
	}
	return c, nil
}

func (c *commandLine) add(from string, words ...string) {
	c.argv = append(c.argv, words...)
	for range words {
		c.from = append(c.from, from)
	}
}

// inherit passes a descriptor on and returns its number in the child.
func (c *commandLine) inherit(f *os.File) string {
	c.files = append(c.files, f)
	return strconv.Itoa(firstFD + len(c.files) - 1)
}

// inheritAll passes descriptors on and returns their numbers, with colons between.
func (c *commandLine) inheritAll(files []*os.File) string {
	numbers := make([]string, len(files))
	for i, f := range files {
		numbers[i] = c.inherit(f)
	}
	return strings.Join(numbers, ":")
}

// addFile adds words with a descriptor and other things in them; without a file
// there is no descriptor.
func (c *commandLine) addFile(part plan.Part, f *os.File, others ...string) {
	if f != nil {
		others = append(others, "{fd}", c.inherit(f))
	}
	fill := strings.NewReplacer(others...)
	for _, w := range part.Words {
		c.add(part.From, fill.Replace(w))
	}
}

// kernelLine joins the kernel's command line: what the accelerator and the
// channel need, then the plan's words, so that a user's word wins.
func kernelLine(p *plan.Plan, a answers) (string, error) {
	words := []string{}
	for _, w := range a.accelerator.CommandLine {
		if strings.Contains(w, tscRate) {
			khz, err := a.khz()
			if err != nil {
				return "", fmt.Errorf("measuring the host's time stamp counter, which the guest must be told: %w", err)
			}
			w = strings.ReplaceAll(w, tscRate, strconv.Itoa(khz))
		}
		words = append(words, w)
	}
	words = append(words, notifyWords(a)...)
	own := p.VM.KernelCommandLine
	if a.channel != nil {
		own = a.channel.KernelWords(own)
	}
	line := spec.JoinCommandLine(append(words, own...))
	if most := p.VM.CommandLineMax; most > 0 && len(line) > most {
		return "", fmt.Errorf("the kernel's command line has %d bytes and the kernel would cut it at %d", len(line), most)
	}
	return line, nil
}

// initrd names the initial RAM disk: the VM's own, or, where that is the
// channel, one in sealed memory with the credentials in front of it.
func (c *commandLine) initrd(p *plan.Plan, a answers) (path string, err error) {
	if a.channel == nil || a.channel.Encoding != plan.CPIO {
		return p.VM.Initrd, nil
	}
	m, err := a.overlay.seal(a.credentials, a.channel.Init)
	if err != nil {
		return "", err
	}
	return "/proc/self/fd/" + c.inheritSealed(m), nil
}

// inheritSealed passes a secret on and returns its descriptor in the child.
func (c *commandLine) inheritSealed(m *secret.Memfd) string {
	c.sealed = append(c.sealed, m)
	c.unlocked = c.unlocked || !m.Locked()
	return c.inherit(m.File())
}

// addChannel puts the credentials into sealed memory and names it.
func (c *commandLine) addChannel(a answers) error {
	if a.channel == nil || a.channel.Encoding == plan.CPIO || a.channel.Encoding == plan.OEMStrings {
		return nil // these are part of the initial RAM disk, or of a request
	}
	type item struct {
		name  string
		value *secret.Value
	}
	var list []item
	switch a.channel.Encoding {
	case plan.SMBIOS:
		structures, err := credential.PackSMBIOS(a.credentials, a.channel.MaxStructure)
		if err != nil {
			return err
		}
		for _, s := range structures {
			defer s.Wipe()
			list = append(list, item{"smbios", s})
		}
	case plan.Raw:
		for _, cred := range a.credentials {
			list = append(list, item{cred.Guest, cred.Value})
		}
	default:
		return fmt.Errorf("the plan names the encoding %q, which this version of Ampoule does not know", a.channel.Encoding)
	}
	// The hypervisor itself needs some of its slots.
	fill := strings.NewReplacer("{count}", strconv.Itoa(len(list)), "{slots}", strconv.Itoa(len(list)+64))
	for _, w := range a.channel.Once {
		c.add("", fill.Replace(w))
	}
	for _, it := range list {
		m, err := secret.NewMemfd("ampoule-credential", it.value)
		if err != nil {
			return fmt.Errorf("sealing a credential in memory: %w", err)
		}
		name := it.name
		for _, d := range a.channel.Doubled {
			name = strings.ReplaceAll(name, string(d), string([]rune{d, d}))
		}
		fill := strings.NewReplacer("{fd}", c.inheritSealed(m), "{name}", name)
		for _, w := range a.channel.Each {
			c.add("", fill.Replace(w))
		}
	}
	return nil
}

// closeSecrets gives up our hold on the credentials.
func (c *commandLine) closeSecrets() {
	for _, m := range c.sealed {
		m.Close()
	}
	for _, b := range c.bodies {
		b.Wipe()
	}
	c.sealed, c.bodies, c.requests = nil, nil, nil
}

// blame finds the assignment behind an argument that the hypervisor refused:
// the words before the first that does not match.
func (c *commandLine) blame(argument string) (from string, ok bool) {
	if argument == "" {
		return "", false // an empty word of the command line is not meant
	}
	for i := range c.argv {
		rest := argument
		for _, w := range c.argv[i:] {
			if rest == w {
				return c.from[i], c.from[i] != ""
			}
			var more bool
			if rest, more = strings.CutPrefix(rest, w+" "); !more {
				break
			}
		}
	}
	return "", false
}
