"""The structures the localizer tells apart, and which of them a labelled name may be.

Labels come from many hands: one case names five lung lobes, another both lungs as one, a third only the liver. Each
name maps to the set of localizer classes that its voxels may belong to, so that every label teaches what it knows and
nothing more.
"""

from __future__ import annotations

BACKGROUND = "background"
UNKNOWN = 255  # id of voxels of a labelled case of which nothing is known, unless the case gives it a name

LOCALIZED: tuple[str, ...] = (
    "lung_left",
    "lung_right",
    "heart",
    "aorta",
    "inferior_vena_cava",
    "esophagus",
    "trachea",
    "liver",
    "spleen",
    "kidney_left",
    "kidney_right",
    "stomach",
    "pancreas",
    "gallbladder",
    "urinary_bladder",
    "colon",
    "small_bowel",
    "spinal_cord",
    "brain",
    "brainstem",
    "parotid_gland_left",
    "parotid_gland_right",
    "mandible",
    "skull",
    "vertebrae",
    "ribs",
    "sternum",
    "sacrum",
    "hip_left",
    "hip_right",
    "femur_left",
    "femur_right",
    "scapula_left",
    "scapula_right",
    "clavicula_left",
    "clavicula_right",
    "humerus_left",
    "humerus_right",
    "autochthon_left",
    "autochthon_right",
    "iliopsoas_left",
    "iliopsoas_right",
    "duodenum",
    "adrenal_gland_left",
    "adrenal_gland_right",
    "prostate",
    "portal_vein_and_splenic_vein",
    "iliac_artery_left",
    "iliac_artery_right",
    "iliac_vena_left",
    "iliac_vena_right",
    "costal_cartilages",
    "gluteus_maximus_left",
    "gluteus_maximus_right",
    "gluteus_medius_left",
    "gluteus_medius_right",
    "gluteus_minimus_left",
    "gluteus_minimus_right",
)
CLASSES: tuple[str, ...] = (BACKGROUND, *LOCALIZED)

_MERGED: dict[str, tuple[str, ...]] = {
    "lung": ("lung_left", "lung_right"),
    "lung_upper_lobe_left": ("lung_left",),
    "lung_lower_lobe_left": ("lung_left",),
    "lung_upper_lobe_right": ("lung_right",),
    "lung_middle_lobe_right": ("lung_right",),
    "lung_lower_lobe_right": ("lung_right",),
    "lung_tumour": ("lung_left", "lung_right", BACKGROUND),
    "tumour": ("lung_left", "lung_right", BACKGROUND),
    "vertebrae_S1": ("sacrum",),
    # a voxel phantom's small bowel includes the duodenum
    "small_bowel_with_duodenum": ("small_bowel", "duodenum"),
    # a voxel phantom's brain includes the stem; a trunk's skull may include the mandible
    "brain": ("brain", "brainstem"),
    "brain_beyond_its_stem": ("brain",),
    "skull": ("skull", "mandible"),
    "salivary_glands_left": ("parotid_gland_left", BACKGROUND),
    "salivary_glands_right": ("parotid_gland_right", BACKGROUND),
    # borders of the heart with its great vessels are drawn differently everywhere
    "atrial_appendage_left": ("heart",),
    "heart_myocardium": ("heart",),
    "heart_atrium_left": ("heart",),
    "heart_atrium_right": ("heart",),
    "heart_ventricle_left": ("heart",),
    "heart_ventricle_right": ("heart",),
    "pulmonary_vein": ("heart", "lung_left", "lung_right", BACKGROUND),
    "pulmonary_artery": ("heart", BACKGROUND),
    "blood_vessels": ("aorta", "inferior_vena_cava", BACKGROUND),
}


def classes_of(name: str) -> tuple[str, ...]:
    """The localizer classes that a voxel labelled `name` may belong to."""
    if name in _MERGED:
        return _MERGED[name]
    if name in LOCALIZED:
        return (name,)
    if name.startswith("vertebrae_"):
        return ("vertebrae",)
    if name.startswith("rib_"):
        return ("ribs",)
    return (BACKGROUND,)
