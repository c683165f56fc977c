package fake

import (
	"net"
	"strings"
)

const root = "/api/v1/"

// action is what stands behind a path.
type action struct {
	method string
	body   bodyRule
	play   func(v *vmm, body []byte) response
	take   func(v *vmm, r request) response // instead, where descriptors matter
}

// bodyRule says what an action does with a body.
type bodyRule int

const (
	noBody   bodyRule = iota // refuses one
	anyBody                  // does not look at it
	mustHave                 // refuses to be without
)

// actions are all paths of a build with the default features.
func actions() map[string]action {
	all := map[string]action{
		"vmm.ping":        {method: "GET", body: anyBody, play: (*vmm).ping},
		"vmm.shutdown":    {method: "PUT", body: anyBody, play: (*vmm).shutdownVMM},
		"vm.create":       {method: "PUT", body: mustHave, play: (*vmm).create},
		"vm.info":         {method: "GET", body: anyBody, play: (*vmm).info},
		"vm.counters":     {method: "GET", body: anyBody, play: (*vmm).counters},
		"vm.boot":         {method: "PUT", body: noBody, play: plain("The VM could not boot", (*vmm).boot)},
		"vm.delete":       {method: "PUT", body: noBody, play: plain("The VM could not be deleted", (*vmm).deleteVM)},
		"vm.shutdown":     {method: "PUT", body: noBody, play: plain("The VM could not shutdown", (*vmm).shutdownVM)},
		"vm.reboot":       {method: "PUT", body: noBody, play: plain("The VM could not reboot", (*vmm).reboot)},
		"vm.pause":        {method: "PUT", body: noBody, play: plain("The VM could not be paused", (*vmm).pause)},
		"vm.resume":       {method: "PUT", body: noBody, play: plain("The VM could not resume", (*vmm).resume)},
		"vm.power-button": {method: "PUT", body: noBody, play: plain("Error triggering power button", (*vmm).powerButton)},
		"vm.nmi":          {method: "PUT", body: noBody, play: plain("Error triggering NMI", (*vmm).nmi)},
	}
	all["vm.add-net"] = action{method: "PUT", body: mustHave, take: (*vmm).addNet}
	all["vm.resize"] = action{method: "PUT", body: mustHave, play: (*vmm).resize}
	for _, name := range []string{
		"vm.add-device", "vm.add-user-device", "vm.add-disk", "vm.add-fs", "vm.add-generic-vhost-user", "vm.add-pmem", "vm.add-vdpa", "vm.add-vsock",
		"vm.receive-migration", "vm.remove-device", "vm.resize-disk", "vm.resize-zone", "vm.restore", "vm.send-migration", "vm.snapshot",
	} {
		all[name] = action{method: "PUT", body: mustHave, play: func(*vmm, []byte) response {
			return answer(500, refusal([]string{"Error from API", "the stand-in does not play " + name}))
		}}
	}
	return all
}

// plain is an action without body on either side.
func plain(words string, do func(*vmm) *failure) func(*vmm, []byte) response {
	return func(v *vmm, _ []byte) response {
		if f := do(v); f != nil {
			return v.failed(f.under(words))
		}
		return answer(204, nil)
	}
}

// failed is the answer to what the VMM could not do.
func (v *vmm) failed(f *failure) response {
	status := 500
	if f.missing {
		status = 404
	}
	return v.refused(status, f.under("Error from API").chain)
}

func (v *vmm) refused(status int, chain []string) response {
	v.log.info("vmm/src/api/http/mod.rs:109", "HTTP API error response: "+strings.Join(chain, ": "))
	return answer(status, refusal(chain))
}

// handle answers a request. The real one has one thread for all of them, so that
// an action that takes its time keeps everybody waiting.
func (v *vmm) handle(r request) response {
	name, ok := strings.CutPrefix(r.path, root)
	a, known := v.actions[name]
	if !ok || !known {
		return v.refused(404, []string{"Not Found"})
	}
	own := oneOf(name, "vmm.ping", "vmm.shutdown", "vm.create", "vm.info") // have handlers of their own
	switch {
	case r.method == "PATCH" && !own:
		return answer(400, nil)
	case r.method != a.method, a.body == noBody && len(r.body) > 0:
		return v.refused(400, []string{"Bad Request"})
	case a.body == mustHave && len(r.body) == 0:
		if own {
			return answer(400, nil)
		}
		return v.refused(400, []string{"Bad Request"})
	}
	return v.call(func() response {
		if a.take != nil {
			return a.take(v, r)
		}
		return a.play(v, r.body)
	})
}

// reply answers one request, or does not, where a fault is asked for.
func (v *vmm) reply(conn net.Conn, r request) bool {
	v.replies.Add(1)
	defer v.replies.Done()
	v.http.Lock()
	defer v.http.Unlock()
	defer v.release()
	name := strings.TrimPrefix(r.path, root)
	fault := v.faults.find(name)
	if fault != nil && !fault.before(v, conn) {
		return false
	}
	out := v.handle(r)
	if fault != nil {
		v.release()
		return fault.after(conn, r, out)
	}
	_, err := conn.Write(out.bytes())
	return err == nil
}
