package run

import (
	"fmt"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/credential"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/initrd"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/preflight"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// refuseEarly is for a VM whose only channel is the initial RAM disk: where that
// does not do, no source of a credential is touched, of which some give it only
// once.
func (r *runner) refuseEarly(answers preflight.Answers) (problems diag.List) {
	if len(r.Plan.VM.Channels) != 1 || !r.Plan.VM.Carries() {
		return nil
	}
	c := &r.Plan.VM.Channels[0]
	if c.Encoding != plan.CPIO || c.Refused != "" {
		return nil
	}
	if no := r.refuseImages(answers, c, nil); no != nil {
		problems.Errorf(r.Plan.Origin(no.key), no.key, keyValue(r.Plan, no.key), no.cure, "%s", no.why)
	}
	return problems
}

// refuseImages says why credentials cannot travel with the initial RAM disk of
// this VM on this host; nil if they can. What the VM's files tell against it is
// in the plan.
func (r *runner) refuseImages(answers preflight.Answers, c *plan.Channel, creds []credential.Credential) *refusal {
	if n, most := preflight.CommandLineBytes(r.Plan, answers.Accelerator, c), r.Plan.VM.CommandLineMax; most > 0 && n > most {
		return &refusal{
			index: -1, why: fmt.Sprintf("with %s the kernel's command line has %d bytes, and the kernel would cut it at %d", strings.Join(c.CommandLine, " "), n, most),
			cure: "shorten KernelCommandLine=", key: "CredentialChannel",
		}
	}
	shim, more, err := r.Host.Shim()
	if err != nil {
		return &refusal{index: -1, why: err.Error(), cure: "install the one of this version beside ampoule, or use another channel", key: "CredentialChannel"}
	}
	shim.Close()
	if what := answers.Images.RAMDisk; what != "" {
		return &refusal{index: -1, why: what + ", in front of which no archive is unpacked", cure: "make it an archive, or " + otherWays, key: "Initrd"}
	}
	if report := answers.Images.Initrd.Report; report != nil { // else there is none, or it is a mistake of its own
		if why, cure := refuseReport(r.Plan, report); why != "" {
			return &refusal{index: -1, why: why, cure: cure, key: "Initrd"}
		}
	}
	for _, c := range creds {
		more += int64(c.Value.Len())
	}
	if need := preflight.Unpacked(r.Plan, answers.Images, more); need > r.Plan.VM.Memory {
		return &refusal{
			index: -1, why: "the initial RAM disk does not fit once it is unpacked, with the credentials and what delivers them in front of it",
			cure: "accepted: " + spec.FormatSize(preflight.RoundUp(need)) + " or more", key: "Memory",
		}
	}
	return nil
}

// otherWays are open where the initial RAM disk is not.
const otherWays = "use CredentialChannel=auto with a machine that has another channel"

func refuseReport(p *plan.Plan, report *initrd.Report) (why, cure string) {
	parameters := driver.KernelParameters(p.VM.KernelCommandLine)
	_, named := parameters["rdinit"]
	init := report.Init
	switch {
	case report.NotInspected != "":
		return "a part of it is compressed by " + report.NotInspected + ", into which Ampoule cannot look, and so its init is unknown",
			"compress it by gzip, xz or zstd, or " + otherWays
	case bootconfig(parameters, report) != "":
		return "the bootconfig behind it sets " + bootconfig(parameters, report) + ", and bootconfig stands in KernelCommandLine=", "remove one of the two"
	case report.Ampoule:
		return "it has entries below /.ampoule, in the place of those that deliver the credentials", "make it without them"
	case report.Run != "":
		return "its /run is no directory (" + report.Run + "), so that the credentials have no place", "make it with a directory /run, or without any"
	case init.Kind == initrd.Systemd && init.Executable:
		return "", ""
	case init.Kind == initrd.Missing && !named:
		// As the kernel would, ampoule-init then mounts root= itself.
		switch why, cure = driver.RefuseRoot(parameters); {
		case why == "":
		case init.Why != "":
			// Something was meant to be there.
			why, cure = "its init, "+init.Path+", is missing: "+init.Why, "make it whole"
		default:
			why = "there is no " + init.Path + " in it, and " + why
		}
		return why, cure
	case init.Kind == initrd.Missing:
		return "there is no " + init.Path + " in it, which rdinit= in KernelCommandLine= names", "name an init that is there"
	case !init.Executable:
		return fmt.Sprintf("its init, %s, is not executable", init.Path), "make it executable"
	case report.Maker == "initramfs-tools" || !named:
		return foreignInit(report)
	}
	return "", ""
}

// bootconfig names the parameters in the footer of an initial RAM disk that speak
// against the channel, if the kernel is told to read them.
func bootconfig(parameters map[string]string, report *initrd.Report) string {
	if _, read := parameters["bootconfig"]; !read {
		return ""
	}
	return strings.Join(report.BootconfigParameters, ", ")
}

// foreignInit is for an init that is not systemd's: it may mount a /run of its
// own over the credentials, and nothing would read them.
func foreignInit(report *initrd.Report) (why, cure string) {
	what := report.Init.Path
	if report.Init.Resolved != "" && report.Init.Resolved != what {
		what += " (" + report.Init.Resolved + ")"
	}
	switch {
	case report.Init.Kind == initrd.Script:
		what += ", is a script for " + report.Init.Interpreter + " and not systemd"
	default:
		what += ", is not systemd"
	}
	cures := []string{"make it with systemd as its init"}
	switch report.Maker {
	case "initramfs-tools":
		cures[0] = "make it with dracut and its module systemd, or with mkosi"
	case "dracut":
		cures[0] = "add dracut's module systemd (dracut --add systemd)"
	case "mkinitcpio":
		cures[0] = "use mkinitcpio's hook systemd instead of udev and base"
	case "nixos":
		cures[0] = "set boot.initrd.systemd.enable = true"
	}
	made := ""
	if report.Maker != "" {
		made = "it was made by " + report.Maker + ", and "
	}
	if report.Maker != "initramfs-tools" {
		cures = append(cures, "name an init of your own that reads $CREDENTIALS_DIRECTORY with KernelCommandLine=rdinit="+report.Init.Path)
	}
	return made + "its init, " + what + ": it may hide the credentials, and nothing would read them", strings.Join(append(cures, otherWays), "; or ")
}

// noteInit warns of an init that the user vouches for.
func noteInit(p *plan.Plan, seen preflight.Images) (notes diag.List) {
	report := seen.Initrd.Report
	if report == nil || report.Init.Kind == initrd.Systemd || report.Init.Kind == initrd.Missing {
		return nil
	}
	at := ""
	for i, w := range p.VM.KernelCommandLine {
		if w == "--" {
			break
		}
		if strings.HasPrefix(w, "rdinit=") {
			at = fmt.Sprintf("KernelCommandLine[%d]", i)
		}
	}
	if at == "" {
		return nil
	}
	notes.Add(diag.Problem{
		Origin: p.Origin(at), Severity: diag.Warning, Key: "KernelCommandLine", Value: "rdinit=" + report.Init.Path,
		What: "this init is not systemd; whether it reads $CREDENTIALS_DIRECTORY is its own affair",
	})
	return notes
}
