package conformance

import (
	"regexp"
	"strings"
	"testing"
)

// step is a request and what comes back; or AWAIT, and what the guest has to say
// first. In bodies, and in what is said, {name}
// stands for the path of a file of that name.
type step struct {
	method, path, body string
	status             int
	said               string // a regular expression for the body; "": it is empty
}

// scenario is a row of the table: a fresh program and requests in their order.
type scenario struct {
	name  string
	args  []string // instead of --level Off
	steps []step
	// fakeOnly is why the real program cannot be asked.
	fakeOnly string
}

// Requests that most scenarios need.
func boot() step {
	return step{"PUT", "/boot-source", `{"kernel_image_path":"{kernel}","boot_args":"console=ttyS0"}`, 204, ""}
}

func launch() step {
	return step{"PUT", "/actions", `{"action_type":"InstanceStart"}`, 204, ""}
}

// refusedLaunch is a start that is refused in such words.
func refusedLaunch(said string) step {
	s := launch()
	s.status, s.said = 400, faultOf("Start microvm error: "+said)
	return s
}

// faultOf is the one shape of a refusal.
func faultOf(said string) string { return `^\{"fault_message":"` + said + `"\}$` }

// badJSON is a mistake in a body.
func badJSON(said string) string {
	return faultOf("An error occurred when deserializing the json body of a request: " + said + `\.`)
}

// one is a scenario of a single request that is refused.
func one(name, method, path, body, said string) scenario {
	return scenario{name: name, steps: []step{{method, path, body, 400, said}}}
}

func running(steps ...step) []step {
	return append([]step{boot(), launch()}, steps...)
}

func scenarios() []scenario {
	var all []scenario
	for _, some := range [][]scenario{pathScenarios(), bodyScenarios(), machineScenarios(), bootScenarios(), driveScenarios(), deviceScenarios(), networkScenarios(), memoryScenarios(), orderScenarios()} {
		all = append(all, some...)
	}
	return all
}

func TestScenarios(t *testing.T) {
	t.Parallel()
	for _, p := range programs() {
		for _, s := range scenarios() {
			if s.refusal() || p.real && s.fakeOnly != "" {
				continue
			}
			t.Run(p.name+"/"+s.name, func(t *testing.T) {
				t.Parallel()
				v := start(t, p.path(t), s.args...)
				v.play(t, s)
				v.alive(t)
			})
		}
	}
}

// refusal: nothing is left of it, and one program can be asked for many.
func (s scenario) refusal() bool {
	return len(s.steps) == 1 && s.steps[0].status == 400 && s.args == nil && s.fakeOnly == ""
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, p := range programs() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			v := start(t, p.path(t))
			for _, s := range scenarios() {
				if s.refusal() {
					t.Run(s.name, func(t *testing.T) { v.play(t, s) })
				}
			}
			v.alive(t)
			if a := v.must("GET", "/vm/config", ""); strings.Contains(a.body, "SECRET") || !strings.Contains(a.body, `"kernel_image_path":""`) {
				t.Errorf("something is left: %s", a.body)
			}
		})
	}
}

// play asks in order.
func (v *vmm) play(t *testing.T, s scenario) {
	for i, step := range s.steps {
		if step.method == "AWAIT" {
			v.sees(step.body)
			continue
		}
		a := v.ask(step.method, step.path, step.body)
		if a.status != step.status {
			t.Errorf("step %d, %s %s: status %d instead of %d\n%s", i+1, step.method, step.path, a.status, step.status, a.body)
		}
		said := step.said
		if said == "" {
			said = "^$"
		}
		if !regexp.MustCompile(said).MatchString(a.body) {
			t.Errorf("step %d, %s %s: the answer is\n%s\nwhich is not\n%s", i+1, step.method, step.path, a.body, said)
		}
	}
}

// alive: it runs and has said nothing.
func (v *vmm) alive(t *testing.T) {
	if !v.runs() {
		t.Errorf("it ended: %v\n%s", v.cmd.ProcessState, v.errors)
	}
}

func pathScenarios() []scenario {
	unknown := func(method, path, body, first string) scenario {
		return one(method+" "+path, method, path, body, faultOf("Invalid request method and/or path: "+method+" "+first+`\.`))
	}
	all := []scenario{
		unknown("GET", "/nope", "", "nope"), unknown("GET", "/vm", "", "vm"), unknown("GET", "/vm/nope", "", "vm"), unknown("GET", "/actions", "", "actions"), unknown("GET", "/drives/a", "", "drives"),
		unknown("GET", "/hotplug", "", "hotplug"),
		unknown("PUT", "/nope", "{}", "nope"), unknown("PUT", "/", "{}", ""), unknown("PUT", "/vm/config", "{}", "vm"), unknown("PUT", "/api/v1/actions", "{}", "api"), unknown("PUT", "/Actions", "{}", "Actions"),
		unknown("PUT", "/actions?x=1", "{}", `actions\?x=1`),
		unknown("PATCH", "/boot-source", "{}", "boot-source"), unknown("PATCH", "/nope", "{}", "nope"),
		unknown("DELETE", "/vsock", "", "vsock"), unknown("DELETE", "/", "", ""),
		one("PUT without a body", "PUT", "/actions", "", faultOf(`Empty PUT request\.`)),
		one("PUT nowhere without a body", "PUT", "/nope", "", faultOf(`Empty PUT request\.`)),
		one("PATCH without a body", "PATCH", "/machine-config", "", faultOf(`Empty PATCH request\.`)),
		one("PATCH of nothing", "PATCH", "/machine-config", "{}", faultOf(`Empty PATCH request\.`)),
		one("GET with a body", "GET", "/", "{}", faultOf(`GET request cannot have a body\.`)),
		one("DELETE with a body", "DELETE", "/drives/a", "{}", faultOf(`Empty Delete request\.`)),
		one("drive without a name", "PUT", "/drives", "{}", faultOf(`The ID cannot be empty\.`)),
		one("drive with an empty name", "PUT", "/drives/", "{}", faultOf(`The ID cannot be empty\.`)),
		one("drive with a hyphen", "PUT", "/drives/a-b", "{}", faultOf(`API Resource IDs can only contain alphanumeric characters and underscores\.`)),
	}
	return append(all, scenario{name: "what can be read", steps: []step{
		{"GET", "/", "", 200, `^\{"id":"anonymous-instance","state":"Not started","vmm_version":"1\.16\.1","app_name":"Firecracker"\}$`},
		{"GET", "//", "", 200, `"Not started"`},
		{"GET", "http://localhost/version", "", 200, `^\{"firecracker_version":"1\.16\.1"\}$`},
		{"GET", "nope", "", 200, `"Not started"`},
		{"GET", "/version/", "", 200, `^\{"firecracker_version":"1\.16\.1"\}$`},
		{"GET", "/version/more", "", 200, `^\{"firecracker_version":"1\.16\.1"\}$`},
		{"GET", "/machine-config", "", 200, `^\{"vcpu_count":1,"mem_size_mib":128,"smt":false,"track_dirty_pages":false,"huge_pages":"None"\}$`},
		{"GET", "/vm/config", "", 200, `^\{"balloon":null,"drives":\[\],"boot-source":\{"kernel_image_path":"","initrd_path":null,"boot_args":null\},"cpu-config":null,"logger":null,"machine-config":\{"vcpu_count":1,.*\},"metrics":null,"mmds-config":null,"network-interfaces":\[\],"vsock":null,"entropy":null,"pmem":\[\],"memory-hotplug":null\}$`},
	}}, scenario{name: "name of the instance", args: []string{"--level", "Off", "--id", "a-1"}, steps: []step{
		{"GET", "/", "", 200, `^\{"id":"a-1",`},
	}})
}

// bodyScenarios are about the reading of bodies, which is the same for all.
func bodyScenarios() []scenario {
	machine := func(name, body, said string) scenario {
		return one("body: "+name, "PUT", "/machine-config", body, badJSON(said))
	}
	const names = "expected one of `vcpu_count`, `mem_size_mib`, `smt`, `cpu_template`, `track_dirty_pages`, `huge_pages`"
	return []scenario{
		machine("unknown field", `{"vcpu_count":1,"mem_size_mib":128,"nope":1}`, "unknown field `nope`, "+names+" at line 1 column 41"),
		machine("unknown field with a space", `{"nope" : 1}`, "unknown field `nope`, "+names+" at line 1 column 8"),
		machine("missing field", `{"vcpu_count":1}`, "missing field `mem_size_mib` at line 1 column 16"),
		machine("nothing in it", `{}`, "missing field `vcpu_count` at line 1 column 2"),
		machine("twice", `{"vcpu_count":1,"vcpu_count":1}`, "duplicate field `vcpu_count` at line 1 column 28"),
		machine("string for a number", `{"vcpu_count":"SECRET"}`, `invalid type: string \\"SECRET\\", expected u8 at line 1 column 22`),
		machine("string for a size", `{"vcpu_count":1,"mem_size_mib":"a\u0007\"b"}`, `invalid type: string .*, expected usize at line 1 column 43`),
		machine("too large", `{"vcpu_count":256}`, "invalid value: integer `256`, expected u8 at line 1 column 17"),
		machine("negative", `{"vcpu_count":-1}`, "invalid value: integer `-1`, expected u8 at line 1 column 16"),
		machine("fraction", `{"vcpu_count":1.5}`, "invalid type: floating point `1.5`, expected u8 at line 1 column 17"),
		machine("truth for a number", `{"vcpu_count":true}`, "invalid type: boolean `true`, expected u8 at line 1 column 18"),
		machine("null", `{"vcpu_count":null}`, `invalid type: null, expected u8 at line 1 column 18`),
		machine("object for a number", `{"vcpu_count":{}}`, `invalid type: map, expected u8 at line 1 column 14`),
		machine("list for a number", `{"vcpu_count":[1]}`, `invalid type: sequence, expected u8 at line 1 column 14`),
		machine("number for a truth", `{"vcpu_count":1,"mem_size_mib":1,"smt":1}`, "invalid type: integer `1`, expected a boolean at line 1 column 40"),
		machine("unknown variant", `{"vcpu_count":1,"mem_size_mib":2,"huge_pages":"Transparent"}`, "unknown variant `Transparent`, expected `None` or `2M` at line 1 column 59"),
		machine("number for a variant", `{"vcpu_count":1,"mem_size_mib":2,"huge_pages":2}`, `expected value at line 1 column 47`),
		machine("string alone", `"SECRET"`, `invalid type: string \\"SECRET\\", expected struct MachineConfig at line 1 column 8`),
		machine("number alone", `12`, "invalid type: integer `12`, expected struct MachineConfig at line 1 column 2"),
		machine("null alone", `null`, `invalid type: null, expected struct MachineConfig at line 1 column 4`),
		machine("empty list", `[]`, `invalid length 0, expected struct MachineConfig with 6 elements at line 1 column 2`),
		machine("space alone", ` `, `EOF while parsing a value at line 1 column 1`),
		machine("cut", `{"vcpu_count":1`, `EOF while parsing an object at line 1 column 15`),
		machine("cut in a string", `{"vcpu`, `EOF while parsing a string at line 1 column 6`),
		machine("cut before a value", `{"vcpu_count":`, `EOF while parsing a value at line 1 column 14`),
		machine("cut behind a comma", `{"vcpu_count":1,`, `EOF while parsing a value at line 1 column 16`),
		machine("trailing comma", `{"vcpu_count":1,}`, `trailing comma at line 1 column 17`),
		machine("no comma", `{"vcpu_count":1 "mem_size_mib":1}`, "expected `,` or `}` at line 1 column 17"),
		machine("no colon", `{"vcpu_count" 1}`, "expected `:` at line 1 column 15"),
		machine("no quotes", `{vcpu_count:1}`, `key must be a string at line 1 column 2`),
		machine("something behind", `{"vcpu_count":1,"mem_size_mib":1}x`, `trailing characters at line 1 column 34`),
		machine("another object behind", `{"vcpu_count":1,"mem_size_mib":1}{}`, `trailing characters at line 1 column 34`),
		machine("lines", "{\n \"vcpu_count\": 1,\n \"nope\": 1}", "unknown field `nope`, "+names+" at line 3 column 7"),
		machine("leading zero", `{"vcpu_count":01}`, `invalid number at line 1 column 16`),
		machine("no word", `{"vcpu_count":nope}`, `expected ident at line 1 column 16`),
		machine("no value", `{"vcpu_count":x}`, `expected value at line 1 column 15`),
		machine("escape", `{"\x":1}`, `invalid escape at line 1 column 4`),
		{name: "body: list in order", steps: []step{
			{"PUT", "/machine-config", `[2,256,false,null,false,"None"]`, 204, ""},
			{"GET", "/machine-config", "", 200, `"vcpu_count":2,"mem_size_mib":256`},
			{"PUT", "/actions", `["FlushMetrics"]`, 400, faultOf(`The requested operation is not supported before starting the microVM\.`)},
		}},
		{name: "body: escapes and space", steps: []step{
			{"PUT", "/machine-config", " {\r\n\t\"vcpu\\u005fcount\" : 3 , \"mem_size_mib\":256 } \n", 204, ""},
			{"GET", "/machine-config", "", 200, `"vcpu_count":3`},
		}},
	}
}
