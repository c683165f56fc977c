// Package emit writes plans for people. It reads no configuration and decides
// nothing.
package emit

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Plan writes a plan as tables: what is decided, with the line that decided
// it, what is asked at start, and the command line.
func Plan(w io.Writer, p *plan.Plan) error {
	var b strings.Builder
	vm := p.VM
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	row := func(name, value, from string) {
		fmt.Fprintf(t, "%s\t%s\t%s\n", name, Visible(value), origin(p, from))
	}
	row("VM", vm.Name, "")
	if vm.Image != nil {
		path := vm.Image.Path
		if vm.Waits() {
			path += " (not there now; read at the start, below the lines of the host)"
		}
		row("Image", path, "Image")
	}
	row("Hypervisor", hypervisor(vm), first(p, "HypervisorPath", "Hypervisor"))
	row("Machine", vm.Machine, "Machine")
	row("VCPU", fmt.Sprint(vm.VCPU), "VCPU")
	if vm.Topology != nil {
		row("CPU topology", topology(*vm.Topology), "CPUTopology")
	}
	row("Memory", spec.FormatSize(vm.Memory), "Memory")
	if vm.HugePages > 0 {
		row("Huge pages", "of "+spec.FormatSize(vm.HugePages), "HugePages")
	}
	if vm.MemoryHotplug > 0 {
		row("Memory to add", "up to "+spec.FormatSize(vm.MemoryHotplug), "MemoryHotplug")
	}
	if vm.Balloon {
		row("Balloon", "takes memory back", "Balloon")
	}
	if vm.Watchdog {
		row("Watchdog", "resets the guest", "Watchdog")
	}
	row("Kernel", vm.Kernel, "Kernel")
	row("Initrd", orNone(vm.Initrd), "Initrd")
	row("Kernel command line", spec.JoinCommandLine(vm.KernelCommandLine), "KernelCommandLine[0]")
	for _, d := range vm.Disks {
		row("Disk", disk(d), d.From)
	}
	for _, d := range vm.Devices {
		row("Device", d.String(), d.From)
	}
	for _, s := range vm.Shares {
		row("Share", share(s), s.From)
	}
	row("Console", map[bool]string{true: "serial", false: "none"}[vm.Console], "Console")
	if vm.MachineID != "" {
		row("Machine ID", vm.MachineID, "MachineID")
	}
	row("Guest's systemd", fmt.Sprint(vm.GuestSystemd), "GuestSystemd")
	if vm.VSock != nil {
		row("VSock", vsock(*vm.VSock), "VSockCID")
	}
	for _, n := range vm.Networks {
		row("Network", Network(n), n.From)
	}
	for _, port := range vm.Ports {
		row("Published port", published(port), port.From)
	}
	row("Ready when", ready(vm.Readiness), first(p, "Readiness", readyBy(vm.Readiness)))
	row("Stop timeout", stopTimeout(vm.StopTimeout), first(p, "Service.TimeoutStopSec[0]", "Service.TimeoutSec[0]"))
	if vm.Runner != "" {
		row("Runner", vm.Runner, "Runner")
	}
	t.Flush()

	if vm.Carries() {
		b.WriteString("\nCredentials\n")
		t = tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
		for _, c := range vm.Credentials {
			fmt.Fprintf(t, "  %s\t%s\t%s\n", guestName(c), Visible(source(c)), origin(p, c.From))
		}
		for _, g := range vm.Given {
			what := "given by Ampoule"
			if g.Ask == plan.AskSSHKey {
				what += ", the public half of a key that each start makes"
			}
			fmt.Fprintf(t, "  %s\t%s\t%s\n", g.Name, what, origin(p, g.From))
		}
		t.Flush()
	}
	questions(&b, vm)
	fmt.Fprintf(&b, "\nCommand line\n  %s", binary(vm))
	for _, part := range vm.Command {
		if w := words(vm, part); w != "" {
			b.WriteString(" \\\n    " + w)
		}
	}
	b.WriteString("\n")
	requests(&b, p)
	fmt.Fprintf(&b, "\nDigest of the VM    %s\nDigest of the unit  %s\n", p.Digest.VM, p.Digest.Unit)
	_, err := io.WriteString(w, trimLines(b.String()))
	return err
}

// trimLines removes the blanks that the last, empty column leaves.
func trimLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

func origin(p *plan.Plan, from string) string {
	if from == "" {
		return ""
	}
	o, ok := p.Origins[from]
	if !ok {
		return "default"
	}
	return Visible(o.String())
}

// first returns the first of the assignments that was made, or the last name.
func first(p *plan.Plan, names ...string) string {
	for _, n := range names {
		if _, ok := p.Origins[n]; ok {
			return n
		}
	}
	return names[len(names)-1]
}

func topology(t plan.Topology) string {
	return fmt.Sprintf("%d sockets, %d cores in each, %d threads on each", t.Sockets, t.Cores, t.Threads)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func hypervisor(vm plan.VM) string { return vm.Hypervisor + ", " + binary(vm) }

func binary(vm plan.VM) string {
	if vm.Binary.Path != "" {
		return vm.Binary.Path
	}
	return vm.Binary.Search[0]
}

func disk(d plan.Disk) string {
	parts := []string{d.Format}
	if d.ReadOnly {
		parts = append(parts, "read-only")
	}
	if d.Direct {
		parts = append(parts, "direct")
	}
	if d.Serial != "" {
		parts = append(parts, "serial "+d.Serial)
	}
	if d.Size > 0 {
		parts = append(parts, "created with "+spec.FormatSize(d.Size)+made(d)+" if missing")
	}
	return d.Path + " (" + strings.Join(parts, ", ") + ")"
}

// made is what a disk that is created is formatted with.
func made(d plan.Disk) string {
	switch {
	case d.FileSystem == "":
		return ""
	case d.Label == "":
		return " and " + d.FileSystem
	}
	return " and " + d.FileSystem + " " + d.Label
}

func share(s plan.Share) string {
	parts := []string{s.Protocol}
	if s.ReadOnly {
		parts = append(parts, "read-only")
	}
	if s.Cache != "" {
		parts = append(parts, "cache "+s.Cache)
	}
	if s.Security != "" {
		parts = append(parts, "security "+s.Security)
	}
	if s.Socket != "" {
		parts = append(parts, "served by others at "+s.Socket)
	}
	where := s.Tag
	if s.MountPoint != "" {
		where += " at " + s.MountPoint
	}
	return s.Source + " as " + where + " (" + strings.Join(parts, ", ") + ")"
}

func vsock(v plan.VSock) string {
	number := "a number that is free"
	if v.CID != 0 {
		number = fmt.Sprint(v.CID)
	}
	if v.Multiplexed {
		return number + ", connected by the hypervisor"
	}
	return number + ", connected by the host's kernel"
}

// readyBy is the key behind a readiness that Readiness= does not name.
func readyBy(r plan.Readiness) string {
	if r.Mode == "guest" {
		return "VSockCID"
	}
	return "Readiness"
}

func ready(r plan.Readiness) string {
	switch r.Mode {
	case "console":
		return "the console shows " + r.Pattern
	case "guest":
		return "the guest's systemd says so over vsock"
	}
	return "started; the guest is not observed"
}

func stopTimeout(ms plan.Milliseconds) string {
	if ms == 0 {
		return "none"
	}
	return (time.Duration(ms) * time.Millisecond).String()
}

func guestName(c plan.Credential) string {
	if c.Kind == string(spec.Import) {
		if c.Guest != "" {
			return c.ID + " as " + c.Guest
		}
		return c.ID
	}
	return c.Guest
}

func source(c plan.Credential) string {
	switch spec.CredentialKind(c.Kind) {
	case spec.Load:
		return "from " + c.Path
	case spec.LoadEncrypted:
		return "encrypted, from " + c.Path
	case spec.Set:
		return fmt.Sprintf("set here, %d bytes, not secret", len(c.Value))
	case spec.SetEncrypted:
		return "set here, encrypted"
	case spec.Import:
		return "imported from the host"
	default:
		return "passed on from [Service], where it is " + c.ID
	}
}

// questions lists what is answered at start, in the order of preference.
func questions(b *strings.Builder, vm plan.VM) {
	b.WriteString("\nAnswered at start\n")
	t := tabwriter.NewWriter(b, 0, 8, 2, ' ', 0)
	var accelerators []string
	for _, a := range vm.Accelerator {
		accelerators = append(accelerators, a.Name)
	}
	rule := ""
	if len(accelerators) > 1 {
		rule = "the first where KVM is truly usable"
	}
	fmt.Fprintf(t, "  accelerator\t%s\t%s\n", strings.Join(accelerators, ", "), rule)
	if vm.Carries() {
		var usable []string
		for _, c := range vm.Channels {
			if c.Refused == "" {
				usable = append(usable, c.Name)
			}
		}
		rule = ""
		if len(usable) > 1 {
			rule = "the first that all credentials fit"
		}
		fmt.Fprintf(t, "  credential channel\t%s\t%s\n", strings.Join(usable, ", "), rule)
	}
	t.Flush()
	if !vm.Carries() {
		return
	}
	for _, c := range vm.Channels {
		switch {
		case c.Refused != "":
			fmt.Fprintf(b, "    not %s: %s\n", c.Name, Visible(c.Refused))
		case c.Why != "":
			fmt.Fprintf(b, "    %s\n", c.Why)
		}
	}
}

// words shows a part of the command line as a shell would take it; what waits
// for an answer stands in angle brackets.
func words(vm plan.VM, part plan.Part) string {
	before := func(last string) string { return strings.Join(append(slices.Clone(part.Words), last), " ") }
	switch part.Ask {
	case "":
		quoted := make([]string, len(part.Words))
		for i, w := range part.Words {
			quoted[i] = quote(w)
		}
		return strings.Join(quoted, " ")
	case plan.AskControl, plan.AskConsole, plan.AskEvents, plan.AskVSock:
		number := "<number>"
		if vm.VSock != nil && vm.VSock.CID != 0 {
			number = fmt.Sprint(vm.VSock.CID)
		}
		return strings.NewReplacer("{fd}", "<descriptor>", "{path}", "<path>", "{cid}", number).Replace(strings.Join(part.Words, " "))
	case plan.AskNetwork:
		return strings.Join(plan.FillNetwork(part.Words, "<descriptors>", vhost(vm, part.From)), " ")
	case plan.AskStdio:
		return "" // no words
	case plan.AskAccelerator:
		if !slices.ContainsFunc(vm.Accelerator, func(a plan.Accelerator) bool { return len(a.Words) > 0 }) {
			return ""
		}
	case plan.AskCommandLine:
		return before(answer(vm, part.Ask))
	case plan.AskChannel:
		inWords := func(c plan.Channel) bool { return c.Encoding != plan.CPIO && c.Encoding != plan.OEMStrings }
		if !slices.ContainsFunc(vm.Channels, inWords) {
			return "" // they are where the initial RAM disk is, or in a request
		}
		return answer(vm, part.Ask)
	case plan.AskInitrd:
		if a := answer(vm, part.Ask); a != "" {
			return before(a)
		}
		return ""
	}
	return answer(vm, part.Ask)
}

// quote writes a word as a shell takes it; one with control characters in the
// form $'…', which most shells have.
func quote(w string) string {
	if w != "" && strings.Trim(w, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:=,@%+-") == "" {
		return w
	}
	if strings.ContainsFunc(w, disturbs) {
		return "$'" + Visible(strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(w)) + "'"
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

// Visible writes what a terminal would obey instead of show as \xNN or \uNNNN.
func Visible(s string) string {
	if plain(s) || !strings.ContainsFunc(s, disturbs) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case !disturbs(r):
			b.WriteRune(r)
		case r < utf8.RuneSelf:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// plain reports whether all characters are printable ASCII. That is soon seen,
// and true of nearly all that is written.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// disturbs reports whether a character changes how a terminal shows the others:
// control characters, and those that turn the direction of writing.
func disturbs(r rune) bool { return unicode.Is(unicode.Cc, r) || unicode.Is(unicode.Bidi_Control, r) }
