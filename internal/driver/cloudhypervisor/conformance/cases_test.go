package conformance

// request is one of a case: what is sent, and what has to come back.
type request struct {
	method, path string
	body         string // "" is none
	status       int
	says         string // a regular expression on the body; "" is an empty body
}

// scenario is a case: requests to a fresh process, in order. The body of vm.create
// is JSON; names of files in it are those of prepare.
type scenario struct {
	name     string
	requests []request
	events   string // all that follow vmm:starting, but those of devices
	exit     int    // after the last request, if it ends the process
	args     []string
	loose    bool // the words differ between hosts and programs
	fakeOnly string
}

// Short forms of requests.
func get(path string, status int, says string) request {
	return request{"GET", path, "", status, says}
}

func put(path string, status int, says string) request {
	return request{"PUT", path, "", status, says}
}

func create(body string) request { return request{"PUT", "vm.create", body, 204, ""} }

func refusedCreate(body, says string) request {
	return request{"PUT", "vm.create", body, 400, says}
}

// boots is a VM that boots, but for changes.
func boots(changes ...string) string { return merge(plainVM, changes...) }

const (
	plainVM = `{"cpus":{"boot_vcpus":1,"max_vcpus":1,"core_scheduling":"Off"},"memory":{"size":67108864},` +
		`"payload":{"kernel":"kernel","cmdline":"fake.guest=ignore-power"},"serial":{"mode":"Null"},"console":{"mode":"Off"}}`

	wholeLife = "vm:booting vm:booted vm:shutdown vm:deleted vmm:shutdown"
	notCreate = `^\["Error from API","[^"]*","VM is not created"\]$`
	notRun    = `^\["Error from API","[^"]*","VM is not running"\]$`
	already   = `^\["Error from API","[^"]*","VM is already created"\]$`
	badly     = `^\["Bad Request"\]$`
	notFound  = `^\["Not Found"\]$`
)

func scenarios() []scenario {
	var all []scenario
	for _, group := range [][]scenario{stateCases(), methodCases(), typeCases(), bootCases(), checkCases(), deviceCases(), guestCases(), resizeCases(), memoryCases(), formatCases(), netCases()} {
		all = append(all, group...)
	}
	return all
}

// stateCases are about the order of requests: vmm/src/lib.rs.
func stateCases() []scenario {
	end := put("vmm.shutdown", 200, "")
	return []scenario{
		{name: "nothing but an end", requests: []request{get("vmm.ping", 200, `^\{"build_version":"v53\.`), end}, events: "vmm:shutdown"},
		{name: "before vm.create", requests: []request{
			get("vm.info", 404, notCreate), put("vm.reboot", 404, notCreate),
			put("vm.boot", 404, `^\["Error from API","The VM could not boot","VM config is missing"\]$`),
			put("vm.shutdown", 500, notRun), put("vm.power-button", 500, notRun), put("vm.pause", 500, notRun), put("vm.resume", 500, notRun),
			put("vm.nmi", 500, notRun), get("vm.counters", 500, notRun), put("vm.delete", 204, ""), end,
		}, events: "vm:rebooting vm:booting vmm:shutdown"},
		{name: "created", requests: []request{
			create(boots()), get("vm.info", 200, `"state":"Created","memory_actual_size":67108864\}$`), {"PUT", "vm.create", boots(), 500, already},
			put("vm.shutdown", 500, notRun), put("vm.power-button", 500, notRun), put("vm.delete", 204, ""), get("vm.info", 404, notCreate),
			create(boots()), end,
		}, events: "vm:deleted vm:deleted vmm:shutdown"},
		{name: "running", requests: []request{
			create(boots()), put("vm.boot", 204, ""), put("vm.boot", 500, already), {"PUT", "vm.create", boots(), 500, already},
			get("vm.info", 200, `"state":"Running".*"device_tree":`), put("vm.power-button", 204, ""), get("vm.counters", 200, `^\{\}$`),
			put("vm.pause", 204, ""), get("vm.info", 200, `"state":"Paused"`),
			put("vm.pause", 500, `"Cannot pause VM","Failed to pause migratable component","Invalid transition: InvalidStateTransition\(Paused, Paused\)"\]$`),
			put("vm.resume", 204, ""),
			put("vm.resume", 500, `"Cannot resume VM","Failed to resume migratable component","Invalid transition: InvalidStateTransition\(Running, Running\)"\]$`),
			put("vm.shutdown", 204, ""), get("vm.info", 200, `"state":"Created"`), put("vm.shutdown", 500, notRun), put("vm.boot", 204, ""),
			put("vm.delete", 204, ""), end,
		}, loose: true, events: "vm:booting vm:booted vm:pausing vm:paused vm:pausing vm:resuming vm:resumed vm:resuming " +
			"vm:shutdown vm:booting vm:booted vm:shutdown vm:deleted vmm:shutdown"},
		{name: "reboot", requests: []request{create(boots()), put("vm.boot", 204, ""), put("vm.reboot", 204, ""), end},
			events: "vm:booting vm:booted vm:rebooting vm:rebooted vm:shutdown vm:deleted vmm:shutdown"},
		{name: "a boot that fails early can be repeated", requests: []request{
			create(boots(`"payload":{}`)), put("vm.boot", 500, `"No bootitem provided: neither firmware nor kernel"\]$`),
			put("vm.boot", 500, `"No bootitem provided`), put("vm.power-button", 500, notRun), {"PUT", "vm.create", boots(), 500, already},
			put("vm.delete", 204, ""), create(boots()), put("vm.boot", 204, ""), end,
		}, events: "vm:booting vm:booting vm:deleted " + wholeLife},
		{name: "a boot that fails late leaves a machine", requests: []request{
			create(boots(`"payload":{"kernel":"nowhere"}`)), put("vm.boot", 500, `"Cannot open kernel file","No such file or directory \(os error 2\)"\]$`),
			get("vm.info", 200, `"state":"Created".*"device_tree"`), put("vm.boot", 500, already), put("vm.power-button", 204, ""), put("vm.delete", 204, ""), end,
		}, loose: true, events: "vm:booting vm:shutdown vm:deleted vmm:shutdown"},
		{name: "an initramfs that is not there leaves none", requests: []request{
			create(boots(`"payload":{"kernel":"kernel","initramfs":"nowhere"}`)), put("vm.boot", 500, `"Cannot open initramfs file","No such file or directory \(os error 2\)"\]$`),
			put("vm.boot", 500, `"Cannot open initramfs file"`), put("vm.shutdown", 500, notRun), end,
		}, events: "vm:booting vm:booting vm:deleted vmm:shutdown"},
	}
}

// methodCases are about what is HTTP: vmm/src/api/http, micro_http.
func methodCases() []scenario {
	refused := func(words string) string {
		return `^\{ "error": "` + words + "\nAll previous unanswered requests will be dropped\\.\" \\}$"
	}
	all := []request{
		get("vm.create", 400, badly), get("vm.boot", 400, badly), put("vm.info", 400, badly), put("vmm.ping", 400, badly), put("vm.counters", 400, badly),
		{"PATCH", "vm.boot", "", 400, ""}, {"PATCH", "vm.create", "{}", 400, badly}, {"PATCH", "vmm.ping", "", 400, badly},
		{"POST", "vm.boot", "", 400, refused("Invalid HTTP Method: Unsupported HTTP method\\.")},
		{"DELETE", "vm.boot", "", 400, refused("Invalid HTTP Method: Unsupported HTTP method\\.")},
		put("vm.create", 400, ""), put("vm.add-disk", 400, badly), put("vm.snapshot", 400, badly),
		{"PUT", "vm.boot", "{}", 400, badly}, {"PUT", "vm.shutdown", "null", 400, badly},
		get("nope", 404, notFound), get("", 404, notFound), put("vm.boot/", 404, notFound), put("vm.boot?x=1", 404, notFound), get("VM.info", 404, notFound),
		{"GET", "vmm.ping", "a body that nobody wants", 200, `^\{"build_version"`},
		{"PUT", "vm.create", pad(boots(), 51201), 400, refused("Request payload with size 51201 is larger than the limit of 51200 allowed by server\\.")},
		{"PUT", "vm.create", pad(boots(), 51200), 204, ""},
		{"PUT", "vmm.shutdown", "ignored", 200, ""},
	}
	return []scenario{{name: "methods, paths and bodies", requests: all, events: "vm:deleted vmm:shutdown"}}
}
