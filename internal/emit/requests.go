package emit

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/ampoule-vm/ampoule/internal/plan"
)

// requests lists what the hypervisor is asked so that the guest runs: field by
// field, with the lines behind them.
func requests(b *strings.Builder, p *plan.Plan) {
	if p.VM.API == nil {
		return
	}
	b.WriteString("\nRequests\n")
	t := tabwriter.NewWriter(b, 0, 8, 2, ' ', 0)
	for _, r := range p.VM.API.Start {
		fmt.Fprintf(t, "  %s %s\n", r.Method, Visible(r.Path))
		if r.Ask == plan.AskNetwork {
			fmt.Fprintf(t, "    with it\t<descriptors>\t%s\n", origin(p, r.From))
		}
		for _, f := range r.Body {
			value := fieldValue(p.VM, f)
			if value == "" {
				continue // nothing stands there
			}
			fmt.Fprintf(t, "    %s\t%s\t%s\n", Visible(f.At), value, origin(p, f.From))
		}
	}
	t.Flush()
}

// fieldValue is a field's value, or its answer in angle brackets; empty where the
// body will not have it.
func fieldValue(vm plan.VM, f plan.Field) string {
	switch {
	case f.Ask != "":
		return answer(vm, f.Ask)
	case f.Type == plan.Object && f.At == "":
		return ""
	case f.Type == plan.Object:
		return "{}"
	}
	return quote(f.Value)
}

// answer shows what will stand in the place of a question; empty: nothing.
func answer(vm plan.VM, q plan.Question) string {
	delivers := func(c plan.Channel) bool { return c.Encoding == plan.CPIO && c.Refused == "" }
	switch q {
	case plan.AskCommandLine:
		return "<kernel command line>"
	case plan.AskChannel:
		if !slices.ContainsFunc(vm.Channels, func(c plan.Channel) bool { return c.Encoding != plan.CPIO }) && vm.Carries() {
			return "" // they are where the initial RAM disk is
		}
		return "<credentials>"
	case plan.AskInitrd:
		only := len(vm.Channels) == 1 && delivers(vm.Channels[0]) && vm.Carries()
		switch {
		case only && vm.Initrd != "":
			return "<credentials, then " + quote(vm.Initrd) + ">"
		case vm.Initrd != "":
			return quote(vm.Initrd)
		case vm.Carries() && slices.ContainsFunc(vm.Channels, delivers):
			return "<credentials>"
		}
		return ""
	case plan.AskKernel:
		return "<descriptor of " + quote(vm.Kernel) + ">"
	case plan.AskVSock:
		return "<path>"
	case plan.AskLandlock:
		return "<true where the host's kernel has it>"
	}
	return "<" + string(q) + ">"
}
