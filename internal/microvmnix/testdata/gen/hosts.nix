# The hosts whose units are the fixtures of internal/testkit/nixhost. Each is a NixOS module
# beside microvm.nix's.
{ microvm, lib, pkgs }:

let
  seed = import ./seed.nix { inherit lib pkgs; };
  guest = import ./guest.nix { inherit microvm lib pkgs; };
  credentials = lib.mapAttrsToList (name: path: "${name}:${path}") seed.credentials;

  web = {
    microvm.interfaces = [ { type = "tap"; id = "vm-web"; mac = "02:00:00:00:00:02"; } ];
  };
  notifying = {
    microvm = { hypervisor = "cloud-hypervisor"; vsock.cid = 42; };
  };
  # A flake that has the guest web.
  flake = {
    outPath = "${pkgs.runCommand "source" { } ''
      mkdir "$out"
      echo '{ outputs = { self }: { }; }' > "$out/flake.nix"
    ''}";
    nixosConfigurations.web = guest "web" web;
  };
  # What the operator of the seed has on the host.
  loading = { systemd.services."microvm@test-vm".serviceConfig.LoadCredential = credentials; };
  vms = vms: { microvm.vms = vms; };
in
{
  # By `config`, which restarts what changed.
  declarative = vms { web.config = web; };
  declarative-kept = vms { web = { config = web; restartIfChanged = false; }; };
  declarative-stopped = vms { web = { config = web; autostart = false; }; };
  # By a flake: never restarted, unless somebody asks for it; installed once with updateFlake.
  flake = vms { web = { inherit flake; }; };
  flake-restarted = vms { web = { inherit flake; restartIfChanged = true; }; };
  flake-update = vms { web = { inherit flake; updateFlake = "git+file:///home/user/my-infra"; }; };
  # Evaluated by somebody else.
  evaluated = vms { web.evaluatedConfig = guest "web" web; };
  evaluated-restarted = vms { web = { evaluatedConfig = guest "web" web; restartIfChanged = true; }; };

  # The seed: test-vm with its customised runner and the credentials on the unit.
  seed.imports = [ loading (vms { test-vm.config = seed.guests.cloud-hypervisor-seed; }) ];
  # Its three ways out.
  seed-runner.imports = [ loading (vms { test-vm.config = seed.guests.cloud-hypervisor-seed; }) {
    systemd.services."microvm@test-vm".serviceConfig.ExecStart = lib.mkForce [ "" "${pkgs.writeShellScript "custom-runner" "exec current/bin/microvm-run"}" ];
  } ];
  seed-hook.imports = [ loading (vms { test-vm.config = seed.guests.cloud-hypervisor-seed; }) {
    systemd.services."microvm@test-vm".serviceConfig.ExecStartPre = [ "+${pkgs.writeShellScript "load-credentials" ''cp "$CREDENTIALS_DIRECTORY"/* /run/test-vm/''}" ];
  } ];
  seed-unit = {
    systemd.services.test-vm-custom = {
      description = "test-vm without microvm.vms";
      wantedBy = [ "multi-user.target" ];
      after = [ "network.target" ];
      serviceConfig = {
        ExecStart = "${(guest "test-vm" seed.guests.cloud-hypervisor-seed).config.microvm.declaredRunner}/bin/microvm-run";
        LoadCredential = credentials;
        Restart = "always";
        WorkingDirectory = "/var/lib/test-vm";
      };
    };
  };
  # An ExecStart= more, without an empty one before it: systemd refuses the unit.
  seed-second-runner.imports = [ loading (vms { test-vm.config = seed.guests.cloud-hypervisor-seed; }) {
    systemd.services."microvm@test-vm".serviceConfig.ExecStart = [ "/run/current-system/sw/bin/custom-runner" ];
  } ];

  notify = vms { web.config = notifying; };
  machined = vms { web.config = { microvm.registerWithMachined = true; }; };
  elsewhere = {
    microvm = {
      stateDir = "/srv/vms";
      host = { useNotifySockets = true; startupTimeout = 600; };
      vms.web.config = notifying;
    };
  };
  none = { };
  several = vms {
    web.config = web;
    "db.internal" = { config = { }; autostart = false; };
    mail-1 = { config = notifying; restartIfChanged = false; };
    # Its networking.hostName, and so the name of its runner's scripts, is another.
    build_2.evaluatedConfig = guest "build" { };
  };
}
