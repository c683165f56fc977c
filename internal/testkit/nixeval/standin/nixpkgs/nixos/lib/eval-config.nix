# Stands for NixOS' evaluation of a guest: pkgs says what is NixOS.
{
  modules,
  pkgs,
  extraModules ? [ ],
  specialArgs ? { },
  prefix ? [ ],
  system ? null,
}:
let
  evaluated = pkgs.lib.evalModules {
    inherit specialArgs prefix;
    modules = modules ++ extraModules ++ pkgs.guestModules ++ [ { _module.args = { inherit pkgs; }; } ];
  };
  failed = map (a: a.message) (builtins.filter (a: !a.assertion) evaluated.config.assertions);
in
# As NixOS does, where a guest's system is built.
evaluated
// {
  config =
    evaluated.config
    // (
      if failed == [ ] then
        { }
      else
        {
          microvm = evaluated.config.microvm // {
            declaredRunner = throw "\nFailed assertions:\n- ${builtins.concatStringsSep "\n- " failed}";
          };
        }
    );
}
