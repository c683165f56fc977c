package fake

import (
	"fmt"
	"strings"
)

// cmdlineMax is the space for the kernel's command line on x86_64, with the NUL
// at its end (arch/x86_64/layout.rs).
const cmdlineMax = 2048

// defaultCmdline is what a boot source without boot_args gets.
const defaultCmdline = "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce"

const initSeparator = " -- "

// cmdline is what stands before and behind the first " -- ". What Firecracker
// adds goes between the two (linux-loader 0.13.2, cmdline/mod.rs).
type cmdline struct{ boot, init string }

// parseCmdline looks at the length alone.
func parseCmdline(raw string) (cmdline, error) {
	c := cmdline{boot: raw}
	for from := 0; ; {
		at := strings.Index(raw[from:], initSeparator)
		if at < 0 {
			break
		}
		at += from
		if strings.Count(raw[:at], `"`)%2 == 0 {
			c = cmdline{raw[:at], raw[at+len(initSeparator):]}
			break
		}
		from = at + len(initSeparator)
	}
	c = cmdline{strings.TrimSpace(c.boot), strings.TrimSpace(c.init)}
	if c.size() > cmdlineMax {
		return c, words("Invalid cmdline capacity provided.")
	}
	return c, nil
}

// size counts the NUL.
func (c cmdline) size() int {
	n := len(c.boot) + 1
	if c.init != "" {
		n += len(initSeparator) + len(c.init)
	}
	return n
}

// insert adds a word of the hypervisor's.
func (c *cmdline) insert(word string) error {
	if strings.IndexFunc(word, func(r rune) bool { return r < ' ' || r > '~' }) >= 0 {
		return words("String contains a non-printable ASCII character.")
	}
	n := c.size() + len(word)
	if c.boot != "" {
		n++
	}
	if n > cmdlineMax {
		return words("Inserting string would make command line too long.")
	}
	c.boot = strings.TrimPrefix(c.boot+" "+word, " ")
	return nil
}

func (c cmdline) String() string {
	if c.init == "" {
		return c.boot
	}
	return c.boot + initSeparator + c.init
}

// The first device that is not the hypervisor's own (layout.rs).
const (
	firstDevice    = 0xc000_1000
	deviceSize     = 0x1000
	firstInterrupt = 5
	// interrupts are 5 to 23; two of them are for VMGenID and VMClock.
	interrupts = 19 - 2
)

// addDevices tells the kernel of the virtio devices, in their order.
func (c *cmdline) addDevices(v *resources) error {
	n := 0
	attach := func() error {
		if v.pci {
			return nil
		}
		if n == interrupts {
			return words("Could not attach device: MMIO transport error: Failed to allocate requested resource: The requested resource is not available.")
		}
		err := c.insert(fmt.Sprintf("virtio_mmio.device=4K@0x%x:%d", firstDevice+n*deviceSize, firstInterrupt+n))
		n++
		if err != nil {
			return wordsf("Could not attach device: MMIO transport error: Failed to allocate requested resourc: %v", err)
		}
		return nil
	}
	if v.balloon != nil {
		if err := attach(); err != nil {
			return err
		}
	}
	for _, d := range v.drives {
		if err := c.addRoot(d); err != nil {
			return err
		}
		if err := attach(); err != nil {
			return err
		}
	}
	for range v.networks {
		if err := attach(); err != nil {
			return err
		}
	}
	for _, there := range []bool{v.vsock != nil, v.entropy != nil, v.hotplug != nil} {
		if there {
			if err := attach(); err != nil {
				return err
			}
		}
	}
	return nil
}

// addRoot names a root device to the kernel.
func (c *cmdline) addRoot(d drive) error {
	if !d.root() {
		return nil
	}
	words := []string{"root=/dev/vda", "rw"}
	if id := optionalString(d.config["partuuid"]); id != nil {
		words[0] = "root=PARTUUID=" + *id
	}
	if d.config["is_read_only"] == true {
		words[1] = "ro"
	}
	for _, w := range words {
		if err := c.insert(w); err != nil {
			return wordsf("Invalid kernel command line: %v", err)
		}
	}
	return nil
}

// parameters are what stands before the first "--", as the kernel takes them
// apart: quotes keep spaces, and are dropped.
func (c cmdline) parameters() []string {
	var words []string
	var word []byte
	quoted, begun := false, false
	for _, b := range []byte(c.boot + " ") {
		switch {
		case b == '"':
			quoted, begun = !quoted, true
		case b == ' ' && !quoted:
			if begun {
				words = append(words, string(word))
			}
			word, begun = nil, false
		default:
			word, begun = append(word, b), true
		}
	}
	return words
}

// value is that of the last parameter of a name.
func (c cmdline) value(name string) (string, bool) {
	found, ok := "", false
	for _, w := range c.parameters() {
		if v, is := strings.CutPrefix(w, name+"="); is {
			found, ok = v, true
		}
	}
	return found, ok
}
