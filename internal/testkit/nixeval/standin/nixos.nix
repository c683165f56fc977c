# Stands for the options of NixOS that the modules set or read. systemd's are those of
# NixOS as far as they go: a value of serviceConfig that is defined several times is a list
# of all, where each is one, or one value. units has the text of each.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  unitValue = lib.mkOptionType {
    name = "systemd option";
    check = _: true;
    merge =
      loc: definitions:
      let
        values = map (d: d.value) definitions;
        first = builtins.head values;
      in
      if builtins.all builtins.isList values then
        builtins.concatLists values
      else if builtins.any builtins.isList values then
        throw "The option `${lib.concatStringsSep "." loc}' is a list in one place and a value in another: ${toString (map (d: toString d.file) definitions)}"
      else if builtins.all (v: v == first) values then
        first
      else
        throw "The option `${lib.concatStringsSep "." loc}' has conflicting definition values: ${toString (map (d: toString d.file) definitions)}";
  };
  anything = mkOption {
    type = types.attrsOf types.anything;
    default = { };
  };
  words = mkOption {
    type = types.listOf types.str;
    default = [ ];
  };
  text = mkOption {
    type = types.nullOr types.str;
    default = null;
  };
  section = mkOption {
    type = types.attrsOf unitValue;
    default = { };
  };
  service = types.submodule {
    options = {
      description = text;
      overrideStrategy = text;
      script = mkOption {
        type = types.lines;
        default = "";
      };
      wants = words;
      requires = words;
      after = words;
      before = words;
      partOf = words;
      wantedBy = words;
      path = mkOption {
        type = types.listOf types.unspecified;
        default = [ ];
      };
      restartTriggers = mkOption {
        type = types.listOf types.unspecified;
        default = [ ];
      };
      reloadTriggers = mkOption {
        type = types.listOf types.unspecified;
        default = [ ];
      };
      restartIfChanged = mkOption {
        type = types.bool;
        default = true;
      };
      unitConfig = section;
      serviceConfig = section;
    };
  };
  value = v: if builtins.isBool v then (if v then "true" else "false") else toString v;
  lines =
    keys:
    lib.concatMapStrings (key: lib.concatMapStrings (v: "${key}=${value v}\n") (lib.toList keys.${key})) (
      builtins.attrNames keys
    );
  list = key: words: lib.optionalString (words != [ ]) "${key}=${toString words}\n";
  unit =
    name: s:
    "[Unit]\n"
    + lib.optionalString (s.description != null) "Description=${s.description}\n"
    + list "Wants" s.wants
    + list "Requires" s.requires
    + list "After" s.after
    + list "Before" s.before
    + list "PartOf" s.partOf
    + lines s.unitConfig
    + lib.optionalString (s.restartTriggers != [ ]) "X-Restart-Triggers=${toString s.restartTriggers}\n"
    + lib.optionalString (!s.restartIfChanged) "X-RestartIfChanged=false\n"
    + "[Service]\n"
    + lib.optionalString (s.script != "")
      "ExecStart=${pkgs.writeShellScript "unit-script-${builtins.replaceStrings [ "@" ] [ "-" ] name}-start" s.script}\n"
    + lines s.serviceConfig
    + lib.optionalString (s.wantedBy != [ ]) "[Install]\n${list "WantedBy" s.wantedBy}";
in
{
  options = {
    assertions = mkOption {
      type = types.listOf types.unspecified;
      default = [ ];
    };
    warnings = words;
    boot = anything;
    hardware = anything;
    networking = anything;
    security = anything;
    system = anything;
    users = anything;
    sops = anything;
    environment.etc = anything;
    environment.systemPackages = mkOption {
      type = types.listOf types.unspecified;
      default = [ ];
    };
    systemd = {
      services = mkOption {
        type = types.attrsOf service;
        default = { };
      };
      generators = anything;
      packages = mkOption {
        type = types.listOf types.unspecified;
        default = [ ];
      };
      package = mkOption {
        type = types.unspecified;
        default = null;
      };
      targets = anything;
      tmpfiles = anything;
      units = mkOption {
        type = types.attrsOf types.unspecified;
        default = { };
      };
    };
  };
  config.systemd.units = builtins.mapAttrs unit config.systemd.services;
}
