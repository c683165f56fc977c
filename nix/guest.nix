# nixosModules.microvm: for guests of microvm.nix, with or without a host that has Ampoule.
# Imported beside microvm.nix's own guest module, it fails the evaluation where a script of
# the guest's would be lost, and lets the guest say which credentials it needs.
{
  config,
  lib,
  options,
  ...
}:
let
  inherit (lib) mkOption types;
  text = import ./lib.nix { inherit lib; };
  inherit (config.microvm) binScripts hypervisor socket;
  cfg = config.microvm.ampoule;

  # Those that lib/runner.nix of microvm.nix writes itself, for every hypervisor, or
  # where there is a socket.
  lost =
    [ "microvm-run" ]
    ++ lib.optionals (socket != null && lib.elem hypervisor [
      "qemu"
      "cloud-hypervisor"
      "firecracker"
      "crosvm"
      "vfkit"
    ]) [ "microvm-shutdown" ]
    ++ lib.optionals (hypervisor == "kvmtool" || socket != null && lib.elem hypervisor [
      "qemu"
      "cloud-hypervisor"
      "crosvm"
    ]) [ "microvm-balloon" ];
  where =
    script: text.at (text.positions [ script ] options.microvm.binScripts.definitionsWithLocations);
in
{
  _file = ./guest.nix;

  options.microvm.ampoule = {
    guard = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether the evaluation fails where microvm.binScripts has a script in whose place
        microvm.nix puts its own.
      '';
    };
    credentials = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "API_KEY" ];
      description = ''
        Names of the credentials that this guest needs. A host with Ampoule fails its
        evaluation where one is not delivered.
      '';
    };
  };

  config.assertions =
    map (script: {
      assertion = false;
      message = "${where script}microvm.binScripts.${script}: nothing of this script would run: microvm.nix puts its own in its place (lib/runner.nix), without a word. ${
        if script == "microvm-run" then
          "For secrets write microvm.vms.NAME.ampoule.credentials.ID.source = \"PATH\" on the host; for other work before the start, microvm.preStart"
        else
          "Remove it, or give it another name"
      }";
    }) (lib.filter (script: cfg.guard && binScripts ? ${script}) lost)
    ++ map (name: {
      assertion = false;
      message = "microvm.ampoule.credentials: \"${name}\": ${text.credentialNameProblem name}; ${text.credentialNameForm}";
    }) (lib.filter (name: text.credentialNameProblem name != null) cfg.credentials);
}
